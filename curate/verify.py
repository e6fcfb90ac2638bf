"""Checking a finished run: every file against its hash, every count, and one digest of the decisions."""

import hashlib
from pathlib import Path
from typing import Any

from curate import storage
from curate.errors import RunError
from curate.runs import MARKER, Run, open_run

__all__ = ["changed_since", "decided", "decisions_digest", "verify_run"]

#: The columns of a decision that do not depend on how the source is cut into shards.
DIGEST_COLUMNS = ("uid", "occurrence", "keep", "reason", "concept", "rank", "weight")


def decisions_digest(path: str | Path) -> str:
    """Return the SHA-256 of all decisions and scores, sorted by uid.

    It is the same for any order of rows and any split into shards.
    """
    import polars as pl

    run = open_run(path)
    scores = run.scores().drop("concept", "distance")
    frame = run.decisions().select(DIGEST_COLUMNS).join(scores, on="uid", how="left", validate="m:1")
    frame = frame.sort("uid", "occurrence")
    state = hashlib.sha256()
    for start in range(0, max(len(frame), 1), 100_000):
        rows = frame.slice(start, 100_000)
        state.update(rows.with_columns(pl.selectors.float().map_batches(_bits)).write_csv().encode())
    return state.hexdigest()


def _bits(column: Any) -> Any:  # noqa: ANN401  (a Polars series, imported late)
    """Return floats as the integers with the same bits, so that text does not round them."""
    import polars as pl

    return column.cast(pl.Float32).reinterpret(signed=False) if column.dtype == pl.Float32 else column


def changed_since(run: Run) -> list[str]:
    """Return the stages that were done anew (or begun) after the manifest was written, in its order.

    With any, the shards, the report and the manifest are those of an earlier decision. Raises RunError if
    the run never had a manifest.
    """
    noted = run.manifest()["stages"]
    now = {name: run.folder.marker(run.folder.stage(name)) or {} for name in noted}
    return [name for name, facts in noted.items() if now[name].get("fingerprint") != facts["fingerprint"]]


def decided(run: Run) -> dict[str, Any]:
    """Return what the decisions say, as in the manifest: rows, kept, dropped by reason, unusable by outcome."""
    from curate.stages.report import grouped

    return grouped(dict(run.decisions()["reason"].value_counts().iter_rows()))


def verify_run(path: str | Path) -> dict[str, Any]:
    """Check that every file has its recorded size and hash and that rows in = kept + dropped + unusable.

    Returns how many files and rows were checked, and the stages `changed` after the shards were written.
    Raises RunError naming the first thing that is wrong.
    """
    run = open_run(path)
    files = sum(_check_files(marker) for marker in sorted(run.folder.path.rglob(MARKER)))
    counts, changed = run.manifest()["counts"], changed_since(run)
    rows = int(counts["rows"])
    if rows != counts["kept"] + sum(counts["dropped"].values()) + sum(counts["unusable"].values()):
        raise RunError(f"{run.folder.manifest}: rows in are not kept + dropped + unusable: {counts}")
    marker = run.folder.marker(run.folder.decisions) or {}
    kept = marker["facts"]["kept"] if "select" in changed and marker else counts["kept"]
    decisions = run.decisions()
    if ("read" not in changed and len(decisions) != rows) or int(decisions["keep"].sum()) != kept:
        raise RunError(f"{run.folder.decisions}: decisions do not match the manifest")
    return {"files": files, "rows": len(decisions), "changed": changed}


def _check_files(marker: Path) -> int:
    """Check the files that a finished stage recorded; return how many."""
    found = storage.read_json(marker)
    if found is None:
        raise RunError(f"{marker}: not readable; run the recipe again")
    for name, facts in found["files"].items():
        file = marker.parent / name
        if not file.exists():
            raise RunError(f"{file}: missing; run the recipe again")
        if file.stat().st_size != facts["bytes"] or storage.hash_file(file) != facts["hash"]:
            raise RunError(f"{file}: its bytes are not those recorded; remove it and run the recipe again")
    return len(found["files"])
