"""What is different between two runs: rows that came and went, decisions, concepts, weights, scores, settings.

Rows are matched by uid and occurrence, one bucket of uids after the other, so that memory does not grow with the runs.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa

from curate.analysis.differences import CHANGED, COLUMNS, Tally
from curate.errors import RunError, UsageError
from curate.execution.exchange import UidBuckets
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.recipe.scores import stored_folders
from curate.recipe.types import default_memory
from curate.runs.run import StoredRun, open_run

__all__ = ["diff_runs"]

#: Concepts listed: those whose number of rows changed most.
LISTED = 10
#: What a row takes while it is matched, and each of its scores.
_ROW_BYTES, _SCORE_BYTES = 500, 40
_KEYS = ["uid", "occurrence"]


def diff_runs(a: str | Path, b: str | Path, *, out: Path | None = None) -> dict[str, Any]:
    """Return what is different in run `b` from run `a`, both finished up to their decisions.

    rows : in each, in both, new in b, gone from a. kept : in each. changes : rows by what became of them. reasons :
    rows of both by their reason before and after, where it changed. concepts : whether they are the same (the same
    centroids, else why_not); if so, how many rows changed theirs, and the concepts whose size changed most.
    weights : of rows kept in both. scores : columns that both have, with the mean absolute difference over rows with
    a number in both (gained, lost : rows with one in b, or in a, alone). settings : those that differ, the place of
    the run aside.

    out : write the rows that differ as Parquet (columns as in `curate.analysis.differences.CHANGED`, in the order of the hash
    of the uid). Raises UsageError if one is no run, RunError if it has no decisions.
    """
    if out is not None and (out.suffix != ".parquet" or out.is_dir()):
        raise UsageError(f"--out must name a file that ends in .parquet, got {out}")
    sides = [_Side(open_run(path)) for path in (a, b)]
    why_not = _why_not_comparable(*(side.run for side in sides))
    common = [name for name in sides[0].scores if name in sides[1].scores]
    tally = Tally(common, comparable=why_not is None)
    tables = (tally.add(rows) for rows in _matched(sides, common))
    if out is None:
        for _ in tables:
            pass
    else:
        storage.write_parquet(out, tables, CHANGED, "diff")
    found = {name: side.run.folder.where for name, side in zip("ab", sides, strict=True)}
    result = {**found, **tally.result(LISTED)}
    result["concepts"] |= {} if why_not is None else {"why_not": why_not}
    only = {name: sorted(set(side.scores) - set(common)) for name, side in zip("ab", sides, strict=True)}
    return {**result, "scores_of_one": only, "settings": _settings(*(side.recipe for side in sides))}


class _Side:
    """One of the two runs: its parts, and the folder of each of its score columns."""

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        run.folder.fingerprint(run.folder.decisions)
        files = (run.folder.marker(run.folder.decisions) or {"files": {}})["files"]
        self.parts = [Path(name).stem.removeprefix("part-") for name in files if name.startswith("part-")]
        self.recipe: dict[str, Any] = read_yaml(run.folder.recipe_text()) or {}
        self.scores: dict[str, Path] = {}
        for folder in map(run.folder.scores, stored_folders(self.recipe)):
            if run.folder.marker(folder) is not None and self.parts:
                kinds = pl.read_parquet_schema(storage.ensure_local(run.folder.part(folder, self.parts[0])))
                self.scores |= {name: folder for name, kind in kinds.items() if kind.is_float()}

    def _decisions(self, part: str, columns: Sequence[str]) -> pa.Table:
        return storage.read_table(self.run.folder.part(self.run.folder.decisions, part), list(columns))

    def rows(self) -> int:
        """Return the number of rows."""
        return sum(self._decisions(part, ["keep"]).num_rows for part in self.parts)

    def frames(self, scores: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the decisions of each part with its scores. A row that is a copy of another has none."""
        for part in self.parts:
            frame = pl.DataFrame(self._decisions(part, [*_KEYS, *COLUMNS]))
            for folder in dict.fromkeys(self.scores[name] for name in scores):
                names = [name for name in scores if self.scores[name] == folder]
                path = self.run.folder.part(folder, part)
                found = pl.DataFrame(storage.read_table(path, ["uid", *names]))
                frame = frame.join(found, on="uid", how="left", maintain_order="left")
            first = pl.col("occurrence") == 0
            yield frame.with_columns(pl.when(first).then(pl.col(name).cast(pl.Float64)) for name in scores)


def _matched(sides: Sequence[_Side], scores: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of both runs side by side, bucket by bucket."""
    fields = [("uid", pa.string()), ("occurrence", pa.int32()), *COLUMNS.items(), ("side", pa.int8())]
    kind = pa.schema([*fields, *((name, pa.float64()) for name in scores)])
    with TemporaryDirectory(prefix="curate-diff-") as scratch:
        buckets = UidBuckets(
            Path(scratch), kind, rows=sum(side.rows() for side in sides),
            row_bytes=_ROW_BYTES + _SCORE_BYTES * len(scores),
            memory=min(int(side.recipe.get("memory") or default_memory()) for side in sides),
        )  # fmt: skip
        for place, side in enumerate(sides):
            for frame in side.frames(scores):
                rows = frame.with_columns(side=pl.lit(place, pl.Int8)).select(kind.names)
                buckets.add(rows.to_arrow().cast(kind))
        for bucket in range(buckets.count):
            yield _joined(buckets.frame(bucket), [side.run.folder.where for side in sides])


def _joined(frame: pl.DataFrame, paths: Sequence[str]) -> pl.DataFrame:
    """Return one row per uid and occurrence: columns of before, and those of after with a suffix."""
    both = []
    for place, path in enumerate(paths):
        rows = frame.filter(pl.col("side") == place).drop("side")
        twice = rows.filter(rows.select(_KEYS).is_duplicated())["uid"]
        if len(twice):
            raise RunError(
                f"{path}: a uid and occurrence must be there once, {twice.min()!r} is there again; curate verify {path}"
            )
        both.append(rows.with_columns(there=pl.lit(value=True)))
    joined = both[0].join(both[1], on=_KEYS, how="full", suffix="_after", coalesce=True)
    return joined.with_columns(pl.col("there", "there_after").fill_null(value=False))


def _why_not_comparable(a: StoredRun, b: StoredRun) -> str | None:
    """Return why a concept of one run is not that of the other; None if both have the same centroids."""
    paths = [run.folder.concepts / "centroids.parquet" for run in (a, b)]
    if not all(path.exists() for path in paths):
        return "one of them has no centroids"
    known = [storage.read_table(path, ["centroid"]) for path in paths]
    if known[0].equals(known[1]):
        return None
    counts = [f"{table.num_rows:,}" for table in known]
    return f"their centroids differ ({' and '.join(counts)} concepts): the concepts were fitted anew"


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the settings that differ, but for the place of the run; None where one has no such setting."""
    before, after = (
        dict(_flat("", {key: recipe[key] for key in recipe if key != "run"})) for recipe in (a, b)
    )
    names = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    return [{"setting": name, "a": before.get(name), "b": after.get(name)} for name in names]


def _flat(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the settings below `name` by their dotted names; entries of a list of sections by place or kind."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        for place, one in enumerate(value):
            if isinstance(one, str):  # a family of scores without settings
                yield f"{name}.{one}", True
            elif name == "score" or len(value) == 1:
                yield from _flat(name, one)
            else:
                yield from _flat(f"{name}.{place}", one)
    elif name == "score" and isinstance(value, list):
        yield from ((f"{name}.{one}", True) for one in value)
    else:
        yield name, value
