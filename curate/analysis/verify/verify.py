"""Checking a finished run: every file against its hash, every invariant of its tables, and one digest of the decisions."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.errors import RunError
from curate.io import storage
from curate.io.remote.cache import state_of
from curate.runs.folder import MARKER
from curate.runs.run import StoredRun, open_run

__all__ = ["Checked", "changed_since", "check_run", "decided", "decisions_digest", "verify_run"]

#: The columns of a decision that do not depend on how the source is cut into shards.
DIGEST_COLUMNS = ("uid", "occurrence", "keep", "reason", "concept", "rank", "weight")


@dataclass(frozen=True)
class Checked:
    """What a check found.

    path : the run. files, rows : how many were checked. changed : the stages done anew after the shards were
    written. violations : one line each, naming the file and the rule; none if all is well.
    """

    path: str
    files: int
    rows: int
    changed: list[str]
    violations: list[str]


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


def changed_since(run: StoredRun) -> list[str]:
    """Return the stages that were done anew (or begun) after the manifest was written, in its order.

    With any, the shards, the report and the manifest are those of an earlier decision. Raises RunError if
    the run never had a manifest.
    """
    noted = run.manifest()["stages"]
    now = {name: run.folder.marker(run.folder.stage(name)) or {} for name in noted}
    return [name for name, facts in noted.items() if now[name].get("fingerprint") != facts["fingerprint"]]


def decided(run: StoredRun) -> dict[str, Any]:
    """Return what the decisions say, as in the manifest: rows, kept, dropped by reason, unusable by outcome."""
    from curate.analysis.summary.counts import group_reasons

    return group_reasons(dict(run.decisions()["reason"].value_counts().iter_rows()))


def verify_run(path: str | Path) -> dict[str, Any]:
    """Return how many files and rows of a run were checked, and the stages `changed` after the shards were written.

    Raises RunError naming the first thing that is wrong (and how many there are).
    """
    found = check_run(path)
    if found.violations:
        more = len(found.violations) - 1
        raise RunError(found.violations[0] + (f" (and {more:,} more violations)" if more else ""))
    return {"files": found.files, "rows": found.rows, "changed": found.changed}


def check_run(path: str | Path) -> Checked:
    """Check everything a run says of itself: files, hashes, counts, and what must hold of its tables.

    The tables are read part by part. What a file says whose bytes are not those recorded is not checked further.
    Raises RunError if the run was never finished.
    """
    from curate.analysis.verify import Tables, violations_of

    run = open_run(path)
    changed = changed_since(run)
    run.folder.fingerprint(run.folder.decisions)  # raises where they are being made anew
    markers = sorted(run.folder.path.rglob(MARKER))
    files, damaged, violations = 0, set(), []
    for marker in markers:
        for file, wrong in _files(marker):
            files += 1
            if wrong is not None:
                damaged.add(file)
                violations.append(f"{file}: {wrong}")
    tables = Tables(run, frozenset(changed), frozenset(damaged))
    violations += violations_of(tables)
    return Checked(run.folder.where, files, tables.rows, changed, violations)


def _files(marker: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield the files of a finished stage, and what is wrong with each."""
    again = "remove it and run the recipe again"
    found = storage.read_json(marker)
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        yield marker, f"not readable as a mark; {again}"
        return
    folder = marker.parent
    for name, facts in found["files"].items():
        file = folder / name
        if not file.is_file():
            yield file, "missing; run the recipe again"
        elif file.stat().st_size != facts["bytes"]:
            yield file, f"its size must be {facts['bytes']:,} bytes, got {file.stat().st_size:,}; {again}"
        elif "hash" not in facts:  # made by another machine of a cluster, and never on this one
            noted = state_of(file)
            same = noted is not None and noted[0].version == facts.get("version")
            yield file, None if same else f"not the version recorded ({facts.get('version')}); {again}"
        elif storage.hash_file(file) != facts["hash"]:
            yield file, f"its bytes are not those recorded (hash {facts['hash']}); {again}"
        else:
            yield file, None
    inner = {path.parent for path in folder.rglob(MARKER)} - {folder}
    for file in sorted(folder.rglob("*")):
        known = str(file.relative_to(folder)) in found["files"] or file.name.startswith((".", "_"))
        if file.is_file() and not known and not any(folder in file.parents for folder in inner):
            yield file, f"not among the files recorded in {marker.name}; remove it"
