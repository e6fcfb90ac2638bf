"""From samples that were picked to what the page shows: samples with thumbnails, galleries, pairs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl
from polars import selectors

from curate.analysis.summary.tables import shown_families
from curate.analysis.summary.thumbnails import Place, side_of, thumbnails
from curate.execution.context import Context, require_same
from curate.io import storage
from curate.report.model import Gallery, Listed, Pair, Sample, Shown
from curate.scores.triage import QUADRANTS

__all__ = [
    "Shelf",
    "copies",
    "galleries",
    "lowest",
    "mislabelled",
    "pairs",
    "quadrants",
    "said_of_order",
    "shelve",
    "typical",
    "unusable",
]

#: Captions are stored at this many characters; a list shows their beginning.
CAPTION_CHARACTERS = 300
LABEL_CHARACTERS = 80


@dataclass
class Shelf:
    """All samples that are shown, each once, and their places by uid."""

    samples: list[Sample] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def add(self, sample: Sample) -> None:
        """Add a sample that is not there yet."""
        if sample.uid not in self.places:
            self.places[sample.uid] = len(self.samples)
            self.samples.append(sample)


def shelve(context: Context, picks: pl.DataFrame, scores: pl.DataFrame) -> Shelf:
    """Return every picked sample, and what dropped ones are duplicates of, with thumbnails where there are images.

    scores : uid, concept and scores of those that have any. Their order is that of what matters: if the page gets too large, the last ones lose their thumbnails.
    """
    names = ["uid", "part", "row", "shard", "caption", "label", "reason"]
    first = pl.col("list").replace_strict(
        {
            "typical": 1,
            "near_cut": 0,
            "drawn": 0,
            **dict.fromkeys(("mislabelled", "lowest", "copies", "unusable"), 0),
            **{f"quadrant:{one}": 0 for one in QUADRANTS},
        },
        default=2,
    )
    alike = (pl.col("list") == "copies") & (pl.col("uid") == pl.col("other"))  # the first row stands for them
    rows = (
        picks.filter(~alike)
        .with_columns(first.alias("turn"), pl.int_range(pl.len()).over("list", "concept").alias("place"))
        .sort("turn", "place", "list", "concept")
    )
    rows = rows.unique("uid", keep="first", maintain_order=True)
    twins = _kept_twins(context, picks)
    others = [_scores(context, part, some) for (part,), some in twins.group_by("part", maintain_order=True)]
    told = {row.pop("uid"): row for frame in (*others, scores) for row in frame.to_dicts()}
    rows = pl.concat([rows.select(names), twins.select(names)])
    rows = rows.unique("uid", keep="first", maintain_order=True)
    readable = rows.filter(~pl.col("reason").str.starts_with("unusable:"))
    wanted = {uid: Place(part, row) for uid, part, row in readable.select("uid", "part", "row").iter_rows()}
    images = thumbnails(context, wanted, side=side_of(len(wanted)))
    shelf = Shelf()
    for row in rows.iter_rows(named=True):
        values = dict(told.get(row["uid"], {"concept": None}))
        shelf.add(
            Sample(
                uid=row["uid"], shard=row["shard"], row=row["row"], image=images.get(row["uid"]),
                caption=_cut(row["caption"], CAPTION_CHARACTERS), label=_cut(row["label"], LABEL_CHARACTERS),
                reason=row["reason"], concept=values.pop("concept"), scores=values,
            )
        )  # fmt: skip
    return shelf


def _kept_twins(context: Context, picks: pl.DataFrame) -> pl.DataFrame:
    """Return the samples that picked duplicates are duplicates of, wherever they are."""
    lists = ["duplicates", "near_cut", "drawn", "copies"]
    twins = picks.filter(pl.col("list").is_in(lists))["other"].drop_nulls().unique()
    found = [picks.head(0)]
    for part in context.parts:
        if len(twins) == 0:
            break
        path = context.run.part(context.run.samples, part.name)
        names = ["uid", "row", "shard", "caption", "label", "occurrence"]
        rows = pl.DataFrame(storage.read_table(path, names))
        said = storage.read_table(context.run.part(context.run.decisions, part.name), ["reason"])
        rows = rows.hstack(pl.DataFrame(said))
        rows = rows.filter(pl.col("uid").is_in(twins.implode()) & (pl.col("occurrence") == 0))
        rows = storage.compact(rows.drop("occurrence"))
        found.append(rows.with_columns(pl.lit(part.index, pl.Int32).alias("part")))
    twins_found = pl.concat(found, how="diagonal")
    classes = context.run.class_names()
    return twins_found.with_columns(pl.col("label").replace(classes)) if classes else twins_found


def _scores(context: Context, part: object, rows: pl.DataFrame) -> pl.DataFrame:
    """Return uid, concept and scores of some rows of a part, given by its index."""
    run, name = context.run, next(one.name for one in context.parts if one.index == part)
    path = run.part(run.final_assignments, name)
    frame = pl.DataFrame(storage.read_table(path, ["uid", "concept", "distance"]))
    for family in shown_families(run):
        scores = pl.DataFrame(storage.read_table(run.part(run.scores(family), name)))
        require_same(frame["uid"], scores["uid"], run.part(run.scores(family), name))
        frame = frame.hstack(scores.select(selectors.float()).get_columns())
    return storage.compact(frame.filter(pl.col("uid").is_in(rows["uid"].implode())))


def _cut(text: str | None, limit: int) -> str | None:
    return text if text is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _shown(rows: pl.DataFrame, shelf: Shelf, note: Callable[[Mapping[str, object]], str]) -> list[Shown]:
    return [Shown(shelf.places[str(row["uid"])], note(row)) for row in rows.iter_rows(named=True)]


def typical(picks: pl.DataFrame, shelf: Shelf) -> dict[int, list[int]]:
    """Return the samples nearest to the centre of each concept."""
    rows = picks.filter(pl.col("list") == "typical")
    groups: dict[int, list[int]] = {}
    for concept, uid in rows.select("concept", "uid").iter_rows():
        groups.setdefault(concept, []).append(shelf.places[uid])
    return groups


def galleries(
    picks: pl.DataFrame,
    shelf: Shelf,
    notable: Mapping[int, Iterable[str]],
    ordered_by: tuple[str, bool],
) -> list[Gallery]:
    """Return the galleries of the notable concepts, in their order.

    ordered_by : the score that makes samples hard, and whether chance decides instead (`ReportRequest`).
    """
    found = []
    for concept, why in notable.items():
        rows = picks.filter(pl.col("concept") == concept)
        lists = []
        for name, (title, nothing, column) in _titles(*ordered_by).items():
            chosen = _shown(rows.filter(pl.col("list") == name), shelf, _note(column))
            lists.append(Listed(name=name, title=title, nothing=nothing, shown=chosen))
        twins = pairs(rows.filter(pl.col("list") == "duplicates"), shelf)
        found.append(Gallery(concept=concept, why=tuple(why), lists=lists, duplicates=twins))
    return found


def _note(column: str) -> Callable[[Mapping[str, object]], str]:
    return lambda row: f"{column} {_number(row['value'])}"


def _titles(hardness: str, drawn: bool) -> dict[str, tuple[str, str, str]]:
    """Return the lists of a gallery: title, what is said of an empty one, and the column that is told."""
    none_kept, none_dropped = "None is kept.", "None is dropped for the budget, besides the most typical."
    typical = {
        "most_typical": (
            "Most typical: nearest to the centre, kept or not",
            "None reached the selection.",
            "distance",
        )
    }
    if drawn:
        return {
            "kept_drawn": ("Kept (a draw)", none_kept, "distance"),
            "dropped_drawn": ("Dropped (a draw)", "None is dropped for the budget.", "distance"),
            "farthest": (
                "Farthest from the centre, kept or not",
                "None reached the selection.",
                "distance",
            ),
            **typical,
        }
    far = hardness == "distance"
    hardest = "Kept, farthest from the centre first" if far else f"Hardest kept, by {hardness}"
    easiest = "Dropped, nearest to the centre first" if far else f"Easiest dropped, by {hardness}"
    return {
        "hardest_kept": (hardest, none_kept, hardness),
        "easiest_dropped": (
            f"{easiest} (without the most typical, which stand below)",
            none_dropped,
            hardness,
        ),
        **typical,
    }


def said_of_order(hardness: str, drawn: bool) -> str:
    """Return what galleries go by, in a sentence.

    >>> said_of_order("el2n", False), said_of_order("distance", True)
    ('Hard and easy go by el2n.', 'Chance decides which rows of a concept are kept, so none is hard or easy: what is kept and dropped is a draw.')
    """
    if drawn:
        return (
            "Chance decides which rows of a concept are kept, so none is hard or easy: what is kept and dropped "
            "is a draw."
        )
    if hardness == "distance":
        return "No score says what is hard: samples go by their distance to the centre of their concept."
    return f"Hard and easy go by {hardness}."


def copies(picks: pl.DataFrame, shelf: Shelf) -> list[Pair]:
    """Return some exact copies beside the rows that stand for them, with where the copies are."""
    rows = picks.filter(pl.col("list") == "copies")
    return [
        Pair(shelf.places.get(other), shelf.places[uid], f"copy in {shard}, row {row:,}")
        for uid, other, shard, row in rows.select("uid", "other", "shard", "row").iter_rows()
        if uid in shelf.places
    ]


def unusable(picks: pl.DataFrame, shelf: Shelf) -> list[Shown]:
    """Return some rows that could not be read, with why and where they are."""
    rows = picks.filter(pl.col("list") == "unusable").filter(pl.col("uid").is_in(list(shelf.places)))
    return _shown(
        rows,
        shelf,
        lambda row: (
            f"{_cut(str(row['other'] or row['reason']), LABEL_CHARACTERS)} \u00b7 {row['shard']}, row {row['row']}"
        ),
    )


def lowest(picks: pl.DataFrame, shelf: Shelf, score: str | None) -> Listed | None:
    """Return the samples with the lowest of a score; None where there is no such score."""
    if score is None:
        return None
    rows = picks.filter(pl.col("list") == "lowest")
    return Listed(
        name=score,
        title=f"Lowest {score}",
        nothing=f"No sample has a {score}.",
        shown=_shown(rows, shelf, _note(score)),
    )


def pairs(rows: pl.DataFrame, shelf: Shelf) -> list[Pair]:
    """Return dropped duplicates beside what they are duplicates of."""
    rows = rows.unique("uid", keep="first", maintain_order=True)
    return [
        Pair(shelf.places.get(other), shelf.places[uid], f"similarity {_number(value)}")
        for uid, other, value in rows.select("uid", "other", "value").iter_rows()
    ]


def mislabelled(picks: pl.DataFrame, shelf: Shelf, score: str) -> list[Shown]:
    """Return samples with a doubtful label, the most doubtful first."""
    rows = picks.filter(pl.col("list") == "mislabelled")
    return _shown(
        rows,
        shelf,
        lambda row: (
            f"predicted {_cut(str(row['other']), LABEL_CHARACTERS)} · {score} {_number(row['value'])}"
        ),
    )


def quadrants(picks: pl.DataFrame, shelf: Shelf) -> dict[str, list[Shown]]:
    """Return some samples of each quadrant of error and uncertainty that has any."""
    lists = {name: picks.filter(pl.col("list") == f"quadrant:{name}") for name in QUADRANTS}
    return {
        name: _shown(rows, shelf, lambda row: str(row["reason"])) for name, rows in lists.items() if len(rows)
    }


def _number(value: object) -> str:
    """Return a score to four digits."""
    return "–" if not isinstance(value, float) else f"{value:.4f}".replace("-", "−")  # noqa: RUF001
