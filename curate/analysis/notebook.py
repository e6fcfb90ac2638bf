"""How a run looks in a notebook: what became of its rows, and its largest concepts with a typical sample each.

One piece of HTML that asks nothing of a network: pictures are data: URIs, everything from the data is escaped.
"""

import logging
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from curate.analysis.summary.summary import RunSummary, summarize
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

    from curate.runs.run import StoredRun

__all__ = ["MAX_BYTES", "html"]

#: Concepts that are shown, characters of a caption, and bytes that all pictures may take together.
CONCEPTS, MAX_TEXT, MAX_BYTES = 12, 160, 400_000
#: Reasons that are shown; a recipe may have any number of filters.
MAX_REASONS = 20
#: In place of a picture: an empty frame of the same size.
NO_PICTURE = (
    '<div title="no picture" style="width:48px;height:48px;border:1px dashed;opacity:.4;box-sizing:border-box">'
    "</div>"
)
_CELL = "text-align:left;vertical-align:middle;padding:2px 10px"
_NUMBER = "text-align:right;vertical-align:middle;padding:2px 10px;white-space:nowrap"

log = logging.getLogger("curate")


def html(run: "StoredRun") -> str:
    """Return a run as HTML; of an unfinished one what there is. Never raises."""
    name = escape(run.folder.where)
    try:
        return (
            f'<div class="curate-run"><p><b>curate run</b> <code>{name}</code></p>{_body(run.folder)}</div>'
        )
    except Exception as error:  # noqa: BLE001 - a notebook must be able to show what is damaged
        said = escape(" ".join(str(error).split()) or type(error).__name__)
        return f'<div class="curate-run"><p><b>curate run</b> <code>{name}</code>: cannot be shown: {said}</p></div>'


def _body(run: RunFolder) -> str:
    found = summarize(run, concepts=CONCEPTS, whole=False)
    lacks = ", ".join(found.missing)
    text = f"<p>not there yet: {escape(lacks)}</p>" if lacks else ""
    text += _counts(found.reasons or found.outcomes)
    text += "".join(f"<p>{escape(line)}</p>" for line in found.said)
    return text if found.concepts is None else text + _concepts(run, found, found.concepts)


def _counts(counts: Mapping[str, int]) -> str:
    """Return the rows by reason (or outcome), the most first."""
    total = sum(counts.values())
    lines = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rows = [["rows in", f"{total:,}", "100 %"]]
    rows += [[name, f"{n:,}", f"{100 * n / total:.1f} %"] for name, n in lines[:MAX_REASONS]]
    left = sum(n for _, n in lines[MAX_REASONS:])
    rows += (
        [[f"{len(lines) - MAX_REASONS} other reasons", f"{left:,}", f"{100 * left / total:.1f} %"]]
        if left
        else []
    )
    return _table(["", "rows", "share"], [[escape(cell) for cell in row] for row in rows], numbers=(1, 2))


def _concepts(run: RunFolder, found: RunSummary, table: "pl.DataFrame") -> str:
    shown = found.listed["largest"].to_dicts()
    samples = {row["concept"]: row for row in found.typical.to_dicts()}
    named = found.typical.filter(found.typical["concept"].is_in(found.listed["largest"]["concept"].implode()))
    pictures = _pictures(run, named)
    decided = "kept" in table.columns
    header = [
        "typical sample",
        "",
        "concept",
        "samples",
        *(["complexity", "budget", "kept", "share"] if decided else []),
    ]
    rows = [_concept(row, samples.get(row["concept"]), pictures, decided=decided) for row in shown]
    title = f"<p>the {len(shown):,} largest of {len(table):,} concepts</p>"
    return title + _table(header, rows, numbers=range(2, len(header)))


def _concept(
    row: Mapping[str, Any], sample: Mapping[str, Any] | None, pictures: Mapping[str, str], *, decided: bool
) -> list[str]:
    """Return the cells of one concept as HTML."""
    words = "" if sample is None else str(sample["caption"] or sample["label"] or sample["uid"])
    words = words if len(words) <= MAX_TEXT else f"{words[: MAX_TEXT - 1]}\u2026"
    uri = None if sample is None else pictures.get(sample["uid"])
    alt = escape(words, quote=True)
    image = f'<img src="{uri}" alt="{alt}" style="max-width:96px;max-height:96px">' if uri else NO_PICTURE
    cells = [image, escape(words), str(row["concept"])]
    if not decided:
        return [*cells, f"{row['n_assigned']:,}"]
    numbers = [_number(row[name]) for name in ("n_eligible", "complexity", "budget", "kept")]
    return [*cells, *numbers, "" if row["share"] is None else f"{100 * row['share']:.1f} %"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int]) -> str:
    """Return a table. rows : cells as HTML. numbers : the columns that stand to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        styles = [_NUMBER if place in numbers else _CELL for place in range(len(cells))]
        named = zip(cells, styles, strict=True)
        return "<tr>" + "".join(f'<{tag} style="{style}">{cell}</{tag}>' for cell, style in named) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"


def _pictures(run: RunFolder, samples: "pl.DataFrame") -> dict[str, str]:
    """Return data: URIs by uid, as far as images can be had from the source and are not too much together."""
    try:
        found = _thumbnails(run, samples)
    except Exception as error:  # noqa: BLE001 - without its source a run is shown without pictures
        log.debug("%s: no pictures: %s", run.path, error)
        return {}
    room, fitting = MAX_BYTES, {}
    for uid in samples["uid"]:
        if uid in found and len(found[uid]) <= room:
            fitting[uid] = found[uid]
            room -= len(found[uid])
    return fitting


def _thumbnails(run: RunFolder, samples: "pl.DataFrame") -> dict[str, str]:
    from curate.analysis.summary.thumbnails import Place, thumbnails
    from curate.execution.context import Context
    from curate.execution.engines.local import LocalEngine
    from curate.execution.parts import with_parts
    from curate.recipe.loading import load_recipe

    recipe = load_recipe(run.recipe)
    with LocalEngine(1) as engine:
        context = with_parts(Context(recipe, run, engine))
        places = {part.name: place for place, part in enumerate(context.parts)}
        wanted = {
            row["uid"]: Place(places[row["part"]], row["row"])
            for row in samples.to_dicts()
            if row["part"] in places and row["row"] is not None
        }
        return thumbnails(context, wanted)
