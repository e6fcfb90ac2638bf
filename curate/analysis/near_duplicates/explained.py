"""Read what dedup found in a finished run, and compare the rows of single concepts once more; nothing is written."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.deduplication import thresholds as nearest
from curate.deduplication.captions import caption_codes
from curate.deduplication.semantic import threshold_of
from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution import exchange
from curate.execution.context import Context, eligible, usable
from curate.io import storage
from curate.linalg import load_unit
from curate.ordering.keys import score_of, with_priority
from curate.scores.registry import folders_for

__all__ = [
    "Pair",
    "compared",
    "confirmed",
    "is_duplicate",
    "keeping",
    "over",
    "pairs_around",
    "run_epsilon",
]

#: What a compared row takes beside its vector.
_ROW_BYTES = 250

Group = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """A row and the most similar row before it, kept or not. group : its concept and subconcept."""

    uid: str
    other: str
    similarity: float
    group: Group

    @property
    def concept(self) -> int:
        """The concept of both."""
        return self.group[0]


def run_epsilon(context: Context) -> float | None:
    """Return the epsilon that the duplicates of a run were found with; None where nothing was compared."""
    found = context.facts(context.run.duplicates).get("epsilon")
    return None if found is None else float(found)


def confirmed(context: Context) -> bool:
    """Whether small pictures confirmed the duplicates of a run."""
    return context.facts(context.run.duplicates).get("confirm") is not None


def is_duplicate(context: Context, similarity: float, epsilon: float) -> bool:
    """Whether a similarity makes a duplicate at this epsilon."""
    return bool(over(np.array([similarity]), threshold_of(epsilon), context.recipe.dedup.inclusive)[0])


def compared(context: Context, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """Yield columns of the compared rows, part by part, and whether each is pinned.

    Where only rows of one caption were compared, `caption_code` is among the columns.
    """
    run, by_caption = context.run, not context.recipe.dedup.across_captions
    for part in context.parts:
        found = pl.DataFrame(storage.read_table(run.part(run.duplicates, part.name), ["uid", *columns]))
        judged = pl.DataFrame(storage.read_table(run.part(run.scores("filter"), part.name)))
        passed = judged.filter(pl.col("filter_reason").is_null())
        if not passed["uid"].equals(found["uid"]):
            raise RunError(
                f"{run.where}: 4_duplicates is not of the rows that passed the filters; run it again"
            )
        if by_caption:
            rows = usable(run, part.name).filter(judged["filter_reason"].is_null())
            found = found.with_columns(caption_codes(rows))
        yield found.with_columns(passed["pinned"])


def over(similarity: npt.NDArray[np.float64], threshold: float, inclusive: bool) -> npt.NDArray[np.bool_]:
    """Return which similarities make a duplicate at a threshold."""
    found: npt.NDArray[np.bool_] = similarity >= threshold if inclusive else similarity > threshold
    return found


# --- single concepts once more ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Members:
    """The compared rows of one concept (or part of one) in the order of comparing, with their vectors."""

    uid: list[str]
    vectors: npt.NDArray[np.float32]
    n_pinned: int


def _members(context: Context, group: Group, uid: str) -> _Members:
    """Return the rows of a group that were compared with one of them."""
    run, settings = context.run, context.recipe.dedup
    folders = folders_for(context.recipe, score_of(settings.prefer))
    frames, halves = [], []
    for part in context.parts:
        stored = EmbeddingPart(run.part(run.embeddings, part.name))
        found = pl.DataFrame(
            storage.read_table(run.part(run.duplicates, part.name), ["uid", "concept", "subconcept"])
        )
        found = found.filter((pl.col("concept") == group[0]) & (pl.col("subconcept") == group[1]))
        if not len(found):
            continue
        frame = eligible(run, part.name, (*folders, "filter")).with_row_index("position")
        frame = frame.filter(pl.col("concept") == group[0])
        frame = frame.join(found.select("uid"), on="uid", how="semi", maintain_order="left")
        frame = with_priority(frame, settings.prefer, context.recipe.seed, "dedup")
        halves.append(
            stored.take(context.recipe.cluster.compared, frame["position"].cast(pl.Int64).to_numpy())
        )
        frames.append(storage.compact(frame.select("uid", "pinned", "key", "tie", caption_codes(frame))))
    every = pl.concat(frames).with_row_index("at").sort(~pl.col("pinned"), "key", "tie", "uid")
    if not settings.across_captions:
        own = every.filter(pl.col("uid") == uid)["caption_code"]
        every = every.filter(pl.col("caption_code").is_in(own.implode()))
    vectors = load_unit(np.concatenate(halves)[every["at"].to_numpy()])
    return _Members(every["uid"].to_list(), vectors, int(every["pinned"].sum()))


def keeping(context: Context, group: Group, uid: str) -> nearest.Keeping | None:
    """Return the thresholds nearest to the run's at which a near-duplicate is kept; None where there are none."""
    members = _members(context, group, uid)
    threshold = threshold_of(run_epsilon(context) or 0)
    row = members.uid.index(uid)
    return nearest.keeping_threshold(
        members.vectors, row, threshold, context.recipe.dedup.mode, members.n_pinned
    )


def pairs_around(context: Context, epsilon: float, count: int) -> list[Pair]:
    """Return the `count` pairs whose similarity is nearest to 1 - epsilon, as many on both sides where there are.

    A pair is a row and the most similar row before it. The most similar pair comes first.
    """
    threshold = threshold_of(epsilon)
    sides: dict[bool, list[tuple[float, str, Group, float]]] = {True: [], False: []}
    for frame in compared(context, ("concept", "subconcept", "max_similarity_earlier")):
        known = frame.filter(pl.col("max_similarity_earlier").is_not_null() & ~pl.col("pinned"))
        known = known.with_columns(gap=pl.col("max_similarity_earlier").cast(pl.Float64) - threshold)
        over = pl.col("gap") >= 0 if context.recipe.dedup.inclusive else pl.col("gap") > 0
        for side, rows in ((True, known.filter(over)), (False, known.filter(~over))):
            first = rows.sort(pl.col("gap").abs(), "uid").head(count)
            new = [
                (
                    abs(row["gap"]),
                    row["uid"],
                    (row["concept"], row["subconcept"]),
                    row["max_similarity_earlier"],
                )
                for row in first.iter_rows(named=True)
            ]
            sides[side] = heapq.nsmallest(count, [*sides[side], *new])
    half = max(count - min(count // 2, len(sides[False])), 0)
    above = sides[True][:half]
    chosen = [*above, *sides[False][: count - len(above)]]
    found: list[Pair] = []
    for group, every in _vectors(context, sorted({row[2] for row in chosen})):
        place = {uid: index for index, uid in enumerate(every.uids)}
        for _, uid, of, similarity in chosen:
            if of == group:
                alike = np.flatnonzero(every.captions == every.captions[place[uid]])
                row = int(np.searchsorted(alike, place[uid]))
                other = nearest.partner(every.vectors[alike], row, np.float32(similarity))
                found.append(Pair(uid, every.uids[alike[other]] if other >= 0 else "", similarity, group))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.uid))


@dataclass(frozen=True)
class _Compared:
    """The compared rows of one group, in any order. captions : equal where rows were compared with each other."""

    uids: list[str]
    vectors: npt.NDArray[np.float32]
    captions: npt.NDArray[np.uint64]


def _vectors(context: Context, groups: Sequence[Group]) -> Iterator[tuple[Group, _Compared]]:
    """Yield the compared rows of each group and their vectors, in any order; as many groups a pass as fit."""
    run = context.run
    sizes = storage.read_table(run.concepts / "concepts.parquet", ["n_assigned"])["n_assigned"].to_numpy()
    dim = EmbeddingPart(run.part(run.embeddings, context.parts[0].name)).dim
    room = context.task_memory // 3 // (6 * dim + _ROW_BYTES)
    batch = exchange.plan_buckets(np.array([sizes[concept] for concept, _ in groups], np.int64), max(1, room))
    for index in np.unique(batch).tolist():
        wanted = [group for group, here in zip(groups, batch.tolist(), strict=True) if here == index]
        yield from _vectors_at_once(context, wanted)


def _vectors_at_once(context: Context, groups: Sequence[Group]) -> Iterator[tuple[Group, _Compared]]:
    run = context.run
    codes = pl.DataFrame(
        groups, schema={"concept": pl.Int32, "subconcept": pl.Int32}, orient="row"
    ).with_row_index("group")
    frames, halves = [], []
    for part, rows in zip(context.parts, compared(context, ("concept", "subconcept")), strict=True):
        judged = storage.read_table(run.part(run.scores("filter"), part.name), ["filter_reason"])[
            "filter_reason"
        ]
        position = np.flatnonzero(judged.is_null().to_numpy())
        rows = rows.with_columns(pl.Series("position", position))
        rows = rows.join(codes, on=["concept", "subconcept"], how="inner", maintain_order="left")
        stored = EmbeddingPart(run.part(run.embeddings, part.name))
        halves.append(stored.take(context.recipe.cluster.compared, rows["position"].to_numpy()))
        same = pl.col("caption_code") if "caption_code" in rows.columns else pl.lit(0, pl.UInt64)
        frames.append(rows.select("uid", "group", caption=same))
    every, half = pl.concat(frames), np.concatenate(halves)
    for code, group in enumerate(groups):
        rows = every.filter(pl.col("group") == code)
        here = (every["group"] == code).to_numpy()
        yield group, _Compared(rows["uid"].to_list(), load_unit(half[here]), rows["caption"].to_numpy())
