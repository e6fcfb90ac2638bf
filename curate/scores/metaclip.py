"""How common what a caption says is, and a draw that keeps what is rare: the balancing of MetaCLIP (Xu et al. 2023).

A list of entries is looked for in all captions (`texts.matching`). With c_e captions that hold entry e, MetaCLIP keeps a pair if any of its
entries draws it, each with probability min(1, t / c_e). The draw of an entry is u_e < t / c_e, with u_e a hash of uid, entry and
seed; so a pair is kept exactly where t is above the smallest u_e c_e of its entries. That number is the column `metaclip_t`: a
condition ``metaclip_t < 20000`` is MetaCLIP at t = 20,000, and the n rows with the smallest values are MetaCLIP at the t that
keeps n rows.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from curate.scores.base import AtLeastOne, Score, ScoreColumn, Sources, file_of
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output
    from curate.scores.tables.whole_captions import CaptionTask
    from curate.scores.texts.matching import Matcher

__all__ = ["MetaClip", "by_count", "draw_points", "drawn_below"]

_SETTING = "score: metaclip.entries"
#: Digits of the numbers of captions that are noted: enough to say how many entries are above a t.
_DIGITS = 3

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


class MetaClip(Score):
    """How common the entries of a list are that a caption holds, and at which t MetaCLIP's draw keeps the pair.

    entries : a file with one entry a line, or a JSON list (MetaCLIP's `metadata.json`); null takes runs of up to `ngram` words
    that at least `least` captions have. ignore_case : false is what MetaCLIP's code does. Captions are counted over all
    usable samples, whatever conditions and dedup take out later.
    """

    measures: ClassVar[str] = "how common what a caption says is, and the t at which MetaCLIP keeps the pair"
    paper: ClassVar[str] = "Xu et al. 2023, arXiv:2309.16671"
    cost: ClassVar[str] = (
        "two passes over the captions, 0.1 to 0.5 ms a caption; no limit of memory for the list of entries"
    )
    requires: ClassVar[str] = "captions; a list of entries is better than none"
    avoid: ClassVar[str] = "where captions are templates: their words are then as common as the template"
    place: ClassVar[int] = 16
    outputs: ClassVar[Mapping[str, Column]] = {
        "metaclip_t": Column("easier"), "metaclip_rarest": Column("easier"), "metaclip_entries": Column(None),
    }  # fmt: skip
    reads: ClassVar[tuple[str, ...]] = ("caption", "uid")

    family: Literal["metaclip"] = "metaclip"
    entries: Annotated[str, file_of(".txt", ".json")] | None = None
    ngram: Annotated[AtLeastOne, Field(le=5)] = 1
    least: AtLeastOne = 20
    ignore_case: bool = True

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Captions."""
        return ("caption",)

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers: what the file holds, not where it lies."""
        settings = self.model_dump(mode="json", exclude={"entries"})
        return settings | {"given": self.entries is not None}

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a file that is not there or holds no entries."""
        if self.entries is not None:
            from curate.scores.texts.matching import read_entries

            read_entries(Path(self.entries), _SETTING, ignore_case=self.ignore_case)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the hash of the file."""
        from curate.io import storage

        return [] if self.entries is None else [storage.hash_file(Path(self.entries))]

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return the file of the entries and of how many captions have each, and the seed."""
        if context is None or output is None:
            return {}
        path = context.run.work / "score-metaclip" / "counted.parquet"
        return {"counted": Counted(path, output.fingerprint, self.ignore_case), "seed": context.recipe.seed}

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory and the status of each row."""
        from curate.scores.texts.matching import Matcher

        captions = samples.require("metaclip", "captions")
        if self.entries is None:
            found = _counter(captions, self)
            counts = {entry: count for entry, count in sorted(found.items()) if count >= self.least}
            entries, count = list(counts), np.fromiter(counts.values(), np.int64, len(counts))
        else:
            entries = self._listed()
            count = _counts(captions, Matcher(entries, ignore_case=self.ignore_case), len(entries))
        known = Known(entries, count, Matcher(entries, ignore_case=self.ignore_case))
        made = self.score_rows(caption=captions, uid=samples.uids, counted=known, seed=samples.seed)
        return {name: made[name] for name in self.outputs}, made[self.status_column]

    def _listed(self) -> list[str]:
        from curate.scores.texts.matching import read_entries

        return read_entries(Path(self.entries or ""), _SETTING, ignore_case=self.ignore_case)

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the columns of each caption."""
        counted = rows["counted"]
        known = counted if isinstance(counted, Known) else counted.load()
        captions = rows["caption"]
        found = [known.matcher.found(one or "") for one in captions]
        rarest = np.array([known.count[some].min() if some else np.nan for some in found], np.float64)
        status = [
            "ok" if some else "no_match" if (one or "").strip() else "no_text"
            for one, some in zip(captions, found, strict=True)
        ]
        return {
            "metaclip_t": draw_points(rows["uid"], found, known.entries, known.count, rows["seed"]),
            "metaclip_rarest": rarest,
            "metaclip_entries": np.where(np.isnan(rarest), np.nan, [len(some) for some in found]),
            self.status_column: np.array(status, object),
        }

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Count the entries, write the tables of all parts, and note how common the entries are."""
        from curate.io import storage

        scratch = context.run.work / "score-metaclip"
        entries, count = _count_all(context, self, output, scratch)
        facts = super().compute(context, output)
        _known.cache_clear()
        storage.remove(scratch)
        facts |= {"entries": len(entries), "found": int((count > 0).sum()), "by_count": by_count(count)}
        lost = sum(_lost(output, part) for part in context.parts)
        if lost:
            facts["warnings"] = [f"{lost:,} captions hold none of the {len(entries):,} entries: no_match"]
        return facts


def draw_points(
    uids: Sequence[str], found: Sequence[Sequence[int]], entries: Sequence[str], count: Counts, seed: int
) -> npt.NDArray[np.float32]:
    """Return the t above which each row is drawn: the smallest u c of its entries, (n,); NaN where it has none.

    found : the places in `entries` that each row holds. count : (m,) captions that hold each entry, at least 1 where one is
    found. u : a hash of uid, entry and seed in (0, 1). Rounded towards 0, so that a row with an entry of c captions is
    below t = c.

    >>> draw_points(["a", "b"], [[0], []], ["cat"], np.array([10]), 0).round(2)
    array([8.64,  nan], dtype=float32)
    """
    import xxhash

    digest, seeds = xxhash.xxh3_64_intdigest, {}
    points = np.full(len(uids), np.nan)
    for row, (uid, places) in enumerate(zip(uids, found, strict=True)):
        name = uid.encode("utf-8", "surrogatepass")
        for place in places:
            if place not in seeds:
                text = f"{seed}\x1fmetaclip\x1f{entries[place]}"
                seeds[place] = digest(text.encode("utf-8", "surrogatepass")), float(count[place])
        drawn = [((digest(name, seeds[place][0]) >> 12) + 0.5) * seeds[place][1] for place in places]
        if drawn:
            points[row] = min(drawn) * 2.0**-52
    rounded = points.astype(np.float32)
    over = rounded > points
    rounded[over] = np.nextafter(rounded[over], np.float32(0))
    return rounded


def by_count(count: Counts) -> list[list[int]]:
    """Return [captions, entries] for each number of captions that entries have, in order; numbers keep three digits.

    >>> by_count(np.array([0, 3, 3, 12345, 12349]))
    [[3, 2], [12300, 2]]
    """
    some = count[count > 0].astype(np.float64)
    step = 10.0 ** np.maximum(0, np.floor(np.log10(np.maximum(some, 1))) - (_DIGITS - 1))
    captions, entries = np.unique((some // step * step).astype(np.int64), return_counts=True)
    return [[int(c), int(n)] for c, n in zip(captions, entries, strict=True)]


def drawn_below(found: Sequence[Sequence[int]], t: float) -> tuple[int, int]:
    """Return how many entries are head, with more than t captions, and how many tail, whose captions are all kept.

    found : what `by_count` returned.

    >>> drawn_below([[3, 2], [12300, 1]], 100.0)
    (1, 2)
    """
    head = sum(entries for captions, entries in found if captions > t)
    return head, sum(entries for _, entries in found) - head


# --- over the parts of a run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """The entries, how many captions hold each, and what finds them."""

    entries: Sequence[str]
    count: Counts
    matcher: "Matcher"


@dataclass(frozen=True)
class Counted:
    """Where entries and counts are; each process reads them once. made : the fingerprint of what they are for."""

    path: Path
    made: str
    ignore_case: bool

    def load(self) -> Known:
        """Return what the file holds."""
        return _known(self)


@functools.lru_cache(1)
def _known(counted: Counted) -> Known:
    from curate.io import storage
    from curate.scores.texts.matching import Matcher

    table = storage.read_table(counted.path)
    entries = table["entry"].to_pylist()
    count = table["count"].to_numpy().astype(np.int64)
    return Known(entries, count, Matcher(entries, ignore_case=counted.ignore_case))


@dataclass(frozen=True)
class CountTask:
    """One part whose captions are looked through: for the entries that are given, or for all runs of words."""

    part: str
    captions: "CaptionTask"
    score: MetaClip
    given: Counted | None
    out: Path


def _count_all(
    context: "Context", score: MetaClip, output: "Output", scratch: Path
) -> tuple[Sequence[str], Counts]:
    """Return the entries and how many captions of the run hold each, and write them for the tasks."""
    from curate.io import storage
    from curate.scores.tables.whole_captions import caption_task

    storage.remove(scratch)  # of a run that was interrupted, perhaps with other data
    given = None
    if score.entries is not None:
        listed = score._listed()
        given = Counted(scratch / "given.parquet", output.fingerprint, score.ignore_case)
        _write(given.path, listed, np.zeros(len(listed), np.int64))
    tasks = [
        CountTask(part.name, caption_task(context, part, output.sources), score, given, scratch / f"{part.name}.parquet")
        for part in context.parts
    ]  # fmt: skip
    context.map("score", "parts", _count_part, tasks)
    entries, count = _summed([task.out for task in tasks], 1 if given else score.least)
    if given is not None:
        sums = dict(zip(entries, count.tolist(), strict=True))
        entries = list(given.load().entries)
        count = np.array([sums.get(one, 0) for one in entries], np.int64)
    _write(scratch / "counted.parquet", entries, count)
    return entries, count


def _count_part(task: CountTask) -> None:
    from curate.scores.tables.whole_captions import whole_captions

    captions = whole_captions(task.captions)["caption"].to_list()
    if task.given is None:
        found = _counter(captions, task.score)
        _write(task.out, list(found), np.fromiter(found.values(), np.int64, len(found)))
        return
    known = task.given.load()
    count = _counts(captions, known.matcher, len(known.entries))
    some = np.flatnonzero(count)
    _write(task.out, [known.entries[place] for place in some.tolist()], count[some])


def _counter(captions: Sequence[str | None], score: MetaClip) -> dict[str, int]:
    """Return how many captions have each run of words."""
    from collections import Counter

    from curate.scores.texts.matching import runs_of

    found: Counter[str] = Counter()
    for one in captions:
        found.update(runs_of(one or "", score.ngram, ignore_case=score.ignore_case))
    return found


def _counts(captions: Sequence[str | None], matcher: "Matcher", m: int) -> Counts:
    """Return how many captions hold each of `m` entries, (m,)."""
    count = np.zeros(m, np.int64)
    for one in captions:
        count[matcher.found(one or "")] += 1
    return count


def _summed(paths: Sequence[Path], least: int) -> tuple[list[str], Counts]:
    """Return the entries of several files, in order, and the sums of their counts where these are at least `least`."""
    import polars as pl

    from curate.io import storage

    empty = pl.DataFrame(schema={"entry": pl.String, "count": pl.Int64})
    tables = [pl.DataFrame(storage.read_table(path)) for path in paths]
    every = pl.concat([empty, *tables]).group_by("entry").agg(pl.col("count").sum())
    every = every.filter(pl.col("count") >= least).sort("entry")
    return every["entry"].to_list(), every["count"].to_numpy().astype(np.int64)


def _write(path: Path, entries: Sequence[str], count: Counts) -> None:
    import pyarrow as pa

    from curate.io import storage

    schema = pa.schema([("entry", pa.string()), ("count", pa.int64())])
    storage.write_parquet(path, pa.table([pa.array(entries, pa.string()), count], schema=schema), schema, "")


def _lost(output: "Output", part: Any) -> int:  # noqa: ANN401  (a part of the run)
    """Return how many captions of a part hold no entry."""
    from curate.io import storage

    table = storage.read_table(output.path(part), ["metaclip_status"])
    return int(table["metaclip_status"].to_pylist().count("no_match"))
