"""From samples that were picked to what the page shows: samples with thumbnails, galleries, pairs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from curate.analysis.summary.thumbnails import Place, thumbnails
from curate.execution.context import Context
from curate.io import storage
from curate.report.model import Gallery, Pair, Sample, Shown
from curate.scores.triage import QUADRANTS

__all__ = ["Shelf", "galleries", "mislabelled", "pairs", "quadrants", "shelve", "typical"]

#: Captions are stored at 300 characters; so many are shown.
CAPTION_CHARACTERS = 120
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


def shelve(context: Context, picks: pl.DataFrame) -> Shelf:
    """Return every picked sample, and what dropped ones are duplicates of, with thumbnails where there are images.

    Their order is that of what matters: if the page gets too large, the last ones lose their thumbnails.
    """
    names = ["uid", "part", "row", "shard", "caption", "label", "reason"]
    first = pl.col("list").replace_strict(
        {
            "typical": 1,
            "near_cut": 0,
            "drawn": 0,
            "mislabelled": 0,
            **{f"quadrant:{one}": 0 for one in QUADRANTS},
        },
        default=2,
    )
    rows = picks.with_columns(
        first.alias("turn"), pl.int_range(pl.len()).over("list", "concept").alias("place")
    ).sort("turn", "place", "list", "concept")
    rows = rows.unique("uid", keep="first", maintain_order=True)
    rows = pl.concat([rows.select(names), _kept_twins(context, picks).select(names)])
    rows = rows.unique("uid", keep="first", maintain_order=True)
    wanted = {uid: Place(part, row) for uid, part, row in rows.select("uid", "part", "row").iter_rows()}
    images = thumbnails(context, wanted)
    shelf = Shelf()
    for row in rows.iter_rows(named=True):
        shelf.add(
            Sample(
                uid=row["uid"], shard=row["shard"], row=row["row"], image=images.get(row["uid"]),
                caption=_cut(row["caption"], CAPTION_CHARACTERS), label=_cut(row["label"], LABEL_CHARACTERS),
                reason=row["reason"],
            )
        )  # fmt: skip
    return shelf


def _kept_twins(context: Context, picks: pl.DataFrame) -> pl.DataFrame:
    """Return the samples that picked duplicates are duplicates of, wherever they are."""
    lists = ["duplicates", "near_cut", "drawn"]
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
        found.append(rows.drop("occurrence").with_columns(pl.lit(part.index, pl.Int32).alias("part")))
    twins_found = pl.concat(found, how="diagonal")
    classes = context.run.class_names()
    return twins_found.with_columns(pl.col("label").replace(classes)) if classes else twins_found


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
    picks: pl.DataFrame, shelf: Shelf, notable: Mapping[int, Iterable[str]], hardness: str
) -> list[Gallery]:
    """Return the galleries of the notable concepts, in their order."""
    found = []
    for concept, why in notable.items():
        rows = picks.filter(pl.col("concept") == concept)

        def of(name: str, column: str, rows: pl.DataFrame = rows) -> list[Shown]:
            chosen = rows.filter(pl.col("list") == name)
            return _shown(chosen, shelf, lambda row: f"{column} {_number(row['value'])}")

        twins = pairs(rows.filter(pl.col("list") == "duplicates"), shelf)
        found.append(
            Gallery(
                concept=concept, why=tuple(why), hardest_kept=of("hardest_kept", hardness),
                easiest_dropped=of("easiest_dropped", hardness), most_typical=of("most_typical", "distance"),
                duplicates=twins,
            )
        )  # fmt: skip
    return found


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
