"""The report page of a run: numbers in, one self-contained HTML page out.

The page opens from disk. It holds all it needs and its content policy forbids every request. Captions,
conditions and names are untrusted: templates escape them, data goes in as JSON that cannot end a script, scripts
put it on the page as text, and only scripts that carry the page's nonce run.

To add a panel: its numbers in `model.ReportData`, a file panel_<name>.html named in page.html, and, where it draws, an
entry in `figures.figures` (the numbers) and in figures.js (how they are drawn).
"""

import functools
import hashlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from polars import selectors

from curate.errors import RunError
from curate.report import evaluation_figure, figures, formatting
from curate.report.formatting import REASONS
from curate.report.groups import compared
from curate.report.model import Gallery, Groups, ReportData, Sample, Score, StageStats

if TYPE_CHECKING:
    import jinja2

__all__ = [
    "MAX_CONCEPTS",
    "MAX_GROUPS",
    "MAX_LISTED",
    "MAX_PAGE",
    "QUANTILES",
    "largest",
    "render",
    "render_concept",
]

#: The page lists the largest concepts up to this number.
MAX_CONCEPTS = 1_000
#: Warnings and unreadable shards are listed up to this number each, groups of a kind up to that one.
MAX_LISTED, MAX_GROUPS = 200, 40
#: Bytes of the page; where they do not suffice, the last samples go without thumbnail.
MAX_PAGE = 14_000_000
QUANTILES = ("min", "p05", "p25", "median", "p75", "p95", "max")
SCRIPTS = ("base.js", "dialog.js", "figures.js", "tables.js", "galleries.js", "whatif.js", "main.js")
CONCEPT_SCRIPTS = ("base.js", "dialog.js", "galleries.js", "concept.js")


def render(report: ReportData) -> str:
    """Return the page of a run as HTML, the same text for the same numbers.

    Raises RunError where the reasons do not add up to the rows read, or to the rows kept.
    """
    _check_sums(report)
    concepts = largest(report.concepts) if report.concepts.height else pl.DataFrame()
    drawn = figures.figures(report, concepts)
    names = _names(report.concepts)
    given: dict[str, Any] = {
        "report": report,
        "unusable": sum(n for reason, n in report.reasons.items() if _kind(reason) == "unusable"),
        "funnel": _funnel(report),
        "concepts": concepts.to_dicts(),
        "concept_counts": _concept_counts(report.concepts),
        "scores": [_score(row) for row in report.scores],
        "groups": [_groups(one, names) for one in report.groups],
        "stages": _stages(report.stages),
        "total_seconds": sum(stage.seconds or 0.0 for stage in report.stages),
        "drawn": drawn,
        "plotly": _plotly() if drawn else None,
        "script": _scripts(SCRIPTS),
        "evaluation": evaluation_figure.table(report.evaluation) if report.evaluation else ((), ()),
    }
    script_data = {
        **drawn, "galleries": [figures.gallery(one, names.get(one.concept)) for one in report.galleries],
        "duplicates": figures.pairs(report.duplicates), "copies": figures.pairs(report.copies), "unusable": figures.shown(report.unusable),
        "lowest": None if report.lowest is None else figures.listed(report.lowest), "names": {str(concept): name for concept, name in names.items()}, "mislabelled": figures.shown(report.mislabelled),
        "quadrants": {name: figures.shown(rows) for name, rows in report.of_quadrants.items()},
        "typical": {str(concept): list(rows) for concept, rows in report.typical.items()},
        "whatif": figures.what_if(report.what_if), "run": report.name, "pictures": report.pictures,
    }  # fmt: skip
    return _page("page.html", given, script_data, report.samples)


def render_concept(
    name: str,
    gallery: Gallery,
    row: Mapping[str, Any],
    samples: Sequence[Sample],
    *,
    ordered_by: str,
    pictures: bool,
) -> str:
    """Return a page of one concept. row : of the table of concepts. samples : those the gallery names."""
    given = {"name": name, "row": dict(row), "ordered_by": ordered_by, "script": _scripts(CONCEPT_SCRIPTS)}
    names = {str(row["concept"]): row["name"]} if row.get("name") else {}
    found = {"galleries": [figures.gallery(gallery)], "run": name, "pictures": pictures, "names": names}
    return _page("concept.html", given, found, samples)


def _page(name: str, given: Mapping[str, Any], script_data: dict[str, Any], samples: Sequence[Sample]) -> str:
    """Return a page with as many thumbnails as it has room for."""
    template = _environment().get_template(name)
    style = _markup(_file("style.css"))
    columns, _ = figures.samples(samples, 0)
    fill = partial(template.render, **given, style=style, quantiles=QUANTILES, max_listed=MAX_LISTED)
    reasons = {one.reason: formatting.why(one.reason) for one in samples if one.reason is not None}
    script_data = {**script_data, "reasons": dict(sorted(reasons.items()))}
    text = figures.as_json({**script_data, "samples": columns})
    bare = fill(data=_markup(text), nonce="", left_out=0)
    columns, left_out = figures.samples(samples, MAX_PAGE - len(bare.encode("utf-8", "replace")))
    text = figures.as_json({**script_data, "samples": columns})
    nonce = hashlib.blake2b(f"{text}{bare}".encode("utf-8", "replace"), digest_size=16).hexdigest()
    return fill(data=_markup(text), nonce=nonce, left_out=left_out)


def _file(name: str) -> str:
    folder = "templates" if name.endswith(".html") else "static"
    return resources.files("curate.report").joinpath(folder, name).read_text("utf-8")


def _markup(text: str) -> str:
    """Return text that goes onto the page as it is."""
    from markupsafe import Markup

    return Markup(text)


def _scripts(names: Sequence[str]) -> str:
    return _markup("\n".join(_file(name) for name in names))


def _plotly() -> str:
    """Return the script of Plotly; importing the package would take half a second for the sake of one file."""
    found = importlib.util.find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        raise RunError("report: the package plotly is not installed; install curate with all that it needs")
    script = Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    return _markup(script.read_text(encoding="utf-8"))


@functools.cache
def _environment() -> "jinja2.Environment":
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_file),
    )  # fmt: skip
    filters = {
        "count": formatting.count,
        "number": formatting.number,
        "share": formatting.share,
        "cut": formatting.cut,
    }
    environment.filters.update(**filters, duration=formatting.duration)
    return environment


def _check_sums(report: ReportData) -> None:
    total, kept = sum(report.reasons.values()), report.reasons.get("kept", 0)
    if total != report.rows_in:
        raise RunError(f"report: reasons must add up to {report.rows_in:,} rows in, got {total:,}")
    if kept != report.kept:
        raise RunError(f"report: reason 'kept' must count {report.kept:,} rows, got {kept:,}")


def _kind(reason: str) -> str:
    return reason.split(":", 1)[0]


def _funnel(report: ReportData) -> list[dict[str, Any]]:
    """Return one step per reason, in the order of deciding, with the rows it took and what it left."""
    order = {kind: place for place, kind in enumerate(REASONS)}
    unknown = order["kept"] - 0.5
    taken = {reason: count for reason, count in report.reasons.items() if reason != "kept"}
    left, steps = report.rows_in, []
    for reason in sorted(taken, key=lambda reason: order.get(_kind(reason), unknown)):
        left -= taken[reason]
        steps.append(_step(reason, taken[reason], left, report.rows_in))
    return [*steps, _step("kept", report.kept, report.kept, report.rows_in)]


def _step(reason: str, rows: int, left: int, rows_in: int) -> dict[str, Any]:
    kind = _kind(reason)
    return {
        "reason": reason,
        "kind": kind if kind in ("kept", "unusable") else "dropped",
        "note": formatting.why(reason),
        "rows": rows,
        "left": left,
        # The part of the bar that is left, then the part that this step took (or, in the last one, kept).
        "left_percent": 0.0 if kind == "kept" else _percent(left, rows_in),
        "percent": _percent(rows, rows_in),
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 3) if whole else 0.0


def largest(concepts: pl.DataFrame) -> pl.DataFrame:
    """Return the concepts that the page lists, with their kept share: the largest, size first, then id."""
    numbers = concepts.with_columns(selectors.float().fill_nan(None))
    first = numbers.sort("n_eligible", "concept", descending=[True, False], nulls_last=True).head(
        MAX_CONCEPTS
    )
    share = pl.when(pl.col("n_eligible") > 0).then(pl.col("kept") / pl.col("n_eligible"))
    return first.with_columns(share.alias("share"))


def _concept_counts(concepts: pl.DataFrame) -> dict[str, int]:
    if concepts.is_empty():
        return {"all": 0, "at_cap": 0, "at_floor": 0, "empty": 0}
    return {
        "all": concepts.height,
        "at_cap": concepts.filter("at_cap").height,
        "at_floor": concepts.filter("at_floor").height,
        "empty": concepts.filter(pl.col("n_eligible") == 0).height,
    }


def _score(row: Score) -> dict[str, Any]:
    """Return the score with its quantiles written to four digits of the largest, and as places in percent."""
    finite = {
        name: value for name, value in row.quantiles.items() if value is not None and math.isfinite(value)
    }
    top = max((abs(value) for value in finite.values()), default=0.0)
    decimals = min(6, max(0, 3 - math.floor(math.log10(top)))) if top > 0 else 3
    text = {name: formatting.number(row.quantiles.get(name), decimals) for name in QUANTILES}
    low, high = finite.get("min", 0.0), finite.get("max", 0.0)
    drawn = len(finite) == len(QUANTILES) and high > low
    place = {name: _percent(value - low, high - low) for name, value in finite.items()} if drawn else None
    return {"score": row, "text": text, "place": place}


def _names(concepts: pl.DataFrame) -> dict[int, str]:
    """Return what concepts are called, of those that have a name."""
    if "name" not in concepts.columns:
        return {}
    return dict(concepts.select("concept", "name").drop_nulls().iter_rows())


def _groups(groups: Groups, names: Mapping[int, str]) -> dict[str, Any]:
    """Return the groups of a kind that are listed: those that shrink most, and of few all. names : of concepts."""
    frame = compared(groups.frame)
    called = {str(concept): name for concept, name in names.items()} if groups.by == "concept" else {}
    return {
        "by": groups.by, "one": groups.by if groups.by in ("class", "concept", "source", "split") else "value", "all": frame.height, "cut": groups.cut, "shrunk": frame.filter("shrunk").height,
        "rows": [{**row, "name": called.get(str(row["group"]))} for row in frame.head(MAX_GROUPS).to_dicts()],
    }  # fmt: skip


def _stages(stages: Sequence[StageStats]) -> list[dict[str, Any]]:
    longest = max((stage.seconds or 0.0 for stage in stages), default=0.0)
    return [{"stats": stage, "percent": _percent(stage.seconds or 0.0, longest)} for stage in stages]
