"""What `curate inspect` shows of a run, as plain values."""

from typing import Any

from curate.analysis.summary.overview import overview
from curate.analysis.verify.verify import changed_since
from curate.pipeline.stages.report import grouped
from curate.runs.run import StoredRun

__all__ = ["inspect_run"]


def inspect_run(run: StoredRun, *, concepts: int = 5) -> dict[str, Any]:
    """Return what a run says of itself: counts as in the manifest, what changed since it, and the rest.

    concepts : how many concepts a list has. See `overview` for the other sections.
    """
    found = overview(run.folder, concepts=concepts)
    counts = grouped(found.pop("reasons")) if "reasons" in found else None
    changed = changed_since(run) if run.folder.manifest.exists() else []
    return {"run": run.folder.where, "counts": counts, "changed": changed, **found}
