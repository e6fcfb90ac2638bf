"""What `curate inspect` shows of a run, as plain values."""

from dataclasses import asdict
from typing import Any

from curate.analysis.summary.matters import what_matters
from curate.analysis.summary.summary import summarize
from curate.analysis.verify.verify import changed_since
from curate.runs.run import StoredRun

__all__ = ["inspect_run"]


def inspect_run(run: StoredRun, *, concepts: int = 5) -> dict[str, Any]:
    """Return what a run says of itself: counts as in the manifest, what changed since it, what matters, and the rest.

    concepts : how many concepts a list has. See `RunSummary` for the other sections.
    """
    summary = summarize(run.folder, concepts=concepts)
    found, matters = summary.as_dict(), [asdict(one) for one in what_matters(run.folder, summary)]
    changed = changed_since(run) if run.folder.manifest.exists() else []
    return {
        "run": run.folder.where,
        "counts": found.pop("counts"),
        "changed": changed,
        **found,
        "matters": matters,
    }
