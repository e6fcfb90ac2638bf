"""What is different between two runs: rows that came and went, decisions, concepts, weights, scores, settings.

Rows are matched by uid and occurrence in a database that spills to disk, so that memory does not grow with the runs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from curate.analysis import joins
from curate.errors import RunError, UsageError
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.recipe.types import default_memory
from curate.runs.layout import score_folders
from curate.runs.run import StoredRun, open_run

__all__ = ["CHANGED", "diff_runs"]

#: Concepts listed: those whose number of rows changed most.
LISTED = 10
_KEYS = ["uid", "occurrence"]

#: What is compared of a row besides its scores.
COLUMNS = {"keep": pa.bool_(), "reason": pa.string(), "concept": pa.int32(), "weight": pa.float32()}

#: The table of rows that differ. change : the first that applies of new, gone, kept_to_dropped, dropped_to_kept,
#: reason, concept (where concepts are comparable), weight.
CHANGED = pa.schema(
    [("uid", pa.string()), ("occurrence", pa.int32()), ("change", pa.string())]
    + [(f"{name}_{when}", kind) for name, kind in COLUMNS.items() for when in ("before", "after")]
)

#: What can become of a row.
_CHANGES = (
    "still_kept", "still_dropped", "kept_to_dropped", "dropped_to_kept",
    "new_kept", "new_dropped", "gone_kept", "gone_dropped",
)  # fmt: skip


def diff_runs(a: str | Path, b: str | Path, *, out: Path | None = None) -> dict[str, Any]:
    """Return what is different in run `b` from run `a`, both finished up to their decisions.

    rows : in each, in both, new in b, gone from a. kept : in each. changes : rows by what became of them. reasons :
    rows of both by their reason before and after, where it changed. concepts : whether they are the same (the same
    centroids, else why_not); if so, how many rows changed theirs, and the concepts whose size changed most.
    weights : of rows kept in both. scores : columns that both have, with the mean absolute difference over rows with
    a number in both (gained, lost : rows with one in b, or in a, alone). settings : those that differ, the place of
    the run aside.

    out : write the rows that differ as Parquet (columns as in `CHANGED`, in the order of the uid). Raises UsageError if one is no run, RunError if it has no decisions.
    """
    if out is not None and (out.suffix != ".parquet" or out.is_dir()):
        raise UsageError(f"--out must name a file that ends in .parquet, got {out}")
    sides = [_Side(open_run(path)) for path in (a, b)]
    why_not = _why_not_comparable(*(side.run for side in sides))
    common = [name for name in sides[0].scores if name in sides[1].scores]
    differences = Differences(common, comparable=why_not is None)
    tables = (differences.add(rows) for rows in _matched(sides, common))
    if out is None:
        for _ in tables:
            pass
    else:
        storage.write_parquet(out, tables, CHANGED, "diff")
    found = {name: side.run.folder.where for name, side in zip("ab", sides, strict=True)}
    result = {**found, **differences.result(LISTED)}
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
        for folder in map(run.folder.scores, score_folders(self.recipe)):
            if run.folder.marker(folder) is not None and self.parts:
                path = storage.ensure_local(run.folder.part(folder, self.parts[0]))
                kinds = pl.scan_parquet(path, glob=False).collect_schema()
                self.scores |= {name: folder for name, kind in kinds.items() if kind.is_float()}

    def _decisions(self, part: str, columns: Sequence[str]) -> pa.Table:
        return storage.read_table(self.run.folder.part(self.run.folder.decisions, part), list(columns))

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


def _kind(scores: Sequence[str]) -> pa.Schema:
    """Return the columns of a row that are compared, behind what rows are matched by."""
    fields = [("uid", pa.string()), ("occurrence", pa.int32()), *COLUMNS.items()]
    return pa.schema([*fields, *((name, pa.float64()) for name in scores)])


def _matched(sides: Sequence[_Side], scores: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield the rows of both runs side by side, in the order of their uid."""
    kind = _kind(scores)
    memory = min(int(side.recipe.get("memory") or default_memory()) for side in sides)
    with joins.opened(memory // 2, a=kind, b=kind) as database:
        for name, side in zip("ab", sides, strict=True):
            for frame in side.frames(scores):
                database.add(name, frame.select(kind.names).to_arrow())
        yield from _joined(database, kind.names, [side.run.folder.where for side in sides])


def _joined(database: joins.Joins, names: Sequence[str], paths: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield one row per uid and occurrence: columns of before, and those of after with a suffix."""
    for table, path in zip("ab", paths, strict=True):
        (twice,) = database.row(
            f"select min(c0) from (select c0 from {table} group by c0, c1 having count(*) > 1)"
        )
        if twice is not None:
            raise RunError(
                f"{path}: a uid and occurrence must be there once, {twice!r} is there again; curate verify {path}"
            )
    keys, rest = range(2), range(2, len(names))
    shown = [f"coalesce(a.c{place}, b.c{place})" for place in keys]
    shown += [f"{table}.c{place}" for table in "ab" for place in rest]
    called = [*names, *(f"{names[place]}_after" for place in rest), "there", "there_after"]
    yield from database.frames(
        f"select {', '.join(shown)}, a.c0 is not null, b.c0 is not null "
        f"from a full join b on {' and '.join(f'a.c{place} = b.c{place}' for place in keys)} order by 1, 2",
        called,
    )


def _why_not_comparable(a: StoredRun, b: StoredRun) -> str | None:
    """Return why a concept of one run is not that of the other; None if both have the same centroids."""
    paths = [run.folder.final_concepts / "centroids.parquet" for run in (a, b)]
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


@dataclass
class _Numbers:
    """Two columns of numbers: rows with both, how many of them differ, by how much; rows with one alone."""

    rows: int = 0
    changed: int = 0
    total: float = 0.0
    largest: float = 0.0
    gained: int = 0
    lost: int = 0

    def add(self, before: pl.Series, after: pl.Series) -> None:
        """Add up some rows. What is not finite counts as absent."""
        here, there = (one.is_finite().fill_null(value=False) for one in (before, after))
        off = (after - before).filter(here & there).abs()
        self.rows += len(off)
        self.changed += int((off > 0).sum())
        self.total += float(off.sum())
        self.largest = max(self.largest, float(off.max() or 0.0))  # type: ignore[arg-type]
        self.gained += int((there & ~here).sum())
        self.lost += int((here & ~there).sum())

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers by name."""
        mean = self.total / self.rows if self.rows else None
        return {
            "rows": self.rows, "changed": self.changed, "mean_difference": mean,
            "largest_difference": self.largest if self.rows else None, "gained": self.gained, "lost": self.lost,
        }  # fmt: skip


class Differences:
    """Counts over blocks of joined rows: columns of before, and those of after with the suffix `_after`.

    `there` and `there_after` say which run has the row. scores : columns of numbers. comparable : whether a concept
    means the same in both runs.
    """

    def __init__(self, scores: Sequence[str], *, comparable: bool) -> None:
        self.comparable = comparable
        self.changes: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[tuple[int, str]] = Counter()
        self.moved = 0
        self.weights = _Numbers()
        self.scores = {name: _Numbers() for name in scores}

    def add(self, rows: pl.DataFrame) -> pa.Table:
        """Count rows; return those that differ (columns as in `CHANGED`)."""
        rows = rows.with_columns(became=_became())
        self.changes.update(dict(rows["became"].value_counts().iter_rows()))
        both = rows.filter("there", "there_after")
        changed = (
            both.filter(pl.col("reason") != pl.col("reason_after")).group_by("reason", "reason_after").len()
        )
        self.reasons.update({(before, after): count for before, after, count in changed.iter_rows()})
        if self.comparable:
            self._add_concepts(rows, both)
        kept = both.filter("keep", "keep_after")
        self.weights.add(kept["weight"].cast(pl.Float64), kept["weight_after"].cast(pl.Float64))
        for name, numbers in self.scores.items():
            numbers.add(both[name], both[f"{name}_after"])
        return _changed(rows, ("reason", *(("concept",) if self.comparable else ()), "weight"))

    def _add_concepts(self, rows: pl.DataFrame, both: pl.DataFrame) -> None:
        self.moved += both.filter(pl.col("concept").ne_missing(pl.col("concept_after"))).height
        for when, suffix in (("before", ""), ("after", "_after")):
            some = rows.filter(pl.col(f"concept{suffix}").is_not_null())
            sizes = some.group_by(f"concept{suffix}").agg(pl.len(), pl.col(f"keep{suffix}").sum())
            for concept, size, kept in sizes.iter_rows():
                self.sizes[concept, f"rows_{when}"] += size
                self.sizes[concept, f"kept_{when}"] += kept

    def result(self, listed: int) -> dict[str, Any]:
        """Return everything by name, as `diff_runs` says. listed : how many concepts."""
        n = {name: self.changes[name] for name in _CHANGES}
        new, gone = n["new_kept"] + n["new_dropped"], n["gone_kept"] + n["gone_dropped"]
        both, stayed = sum(n.values()) - new - gone, n["still_kept"]
        reasons = sorted(self.reasons.items(), key=lambda item: (-item[1], item[0]))
        concepts: dict[str, Any] = {"comparable": self.comparable}
        if self.comparable:
            concepts |= {"changed": self.moved, "sizes": self._sizes()[:listed]}
        return {
            "rows": {"a": both + gone, "b": both + new, "both": both, "new": new, "gone": gone},
            "kept": {
                "a": stayed + n["kept_to_dropped"] + n["gone_kept"],
                "b": stayed + n["dropped_to_kept"] + n["new_kept"],
            },
            "changes": n,
            "reasons": [{"before": x, "after": y, "rows": count} for (x, y), count in reasons],
            "concepts": concepts,
            "weights": self.weights.as_dict(),
            "scores": [{"score": name, **numbers.as_dict()} for name, numbers in self.scores.items()],
        }

    def _sizes(self) -> list[dict[str, int]]:
        """Return the concepts whose rows changed in number, those that changed most first."""
        names = ("rows_before", "rows_after", "kept_before", "kept_after")
        ids = sorted({concept for concept, _ in self.sizes})
        rows = [{"concept": one, **{name: self.sizes[one, name] for name in names}} for one in ids]
        rows = [row for row in rows if row["rows_before"] != row["rows_after"]]
        return sorted(rows, key=lambda row: -abs(row["rows_after"] - row["rows_before"]))


def _became() -> pl.Expr:
    """Return what became of a row: one of `_CHANGES`."""
    here, there = pl.col("there"), pl.col("there_after")
    kept, stays = pl.col("keep"), pl.col("keep_after")
    return (
        pl.when(~here & stays).then(pl.lit("new_kept"))
        .when(~here).then(pl.lit("new_dropped"))
        .when(~there & kept).then(pl.lit("gone_kept"))
        .when(~there).then(pl.lit("gone_dropped"))
        .when(kept & stays).then(pl.lit("still_kept"))
        .when(kept).then(pl.lit("kept_to_dropped"))
        .when(stays).then(pl.lit("dropped_to_kept"))
        .otherwise(pl.lit("still_dropped"))
    )  # fmt: skip


def _changed(rows: pl.DataFrame, compared: Sequence[str]) -> pa.Table:
    """Return the rows that differ in any of some columns, or are in one run alone, in the order that they have."""
    became = pl.col("became")
    other = [pl.when(pl.col(one).ne_missing(pl.col(f"{one}_after"))).then(pl.lit(one)) for one in compared]
    rows = rows.with_columns(
        change=pl.when(became.str.contains("^(new|gone)_")).then(became.str.extract("^(new|gone)_"))
        .when(became.str.contains("_to_")).then(became)
        .otherwise(pl.coalesce(other))
    ).filter(pl.col("change").is_not_null())  # fmt: skip
    rows = rows.rename({name: f"{name}_before" for name in COLUMNS})
    return rows.select(CHANGED.names).to_arrow().cast(CHANGED)
