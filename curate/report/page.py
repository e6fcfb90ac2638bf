"""The report page of a run: facts in, one self-contained HTML page out.

The page opens from disk. It holds all it needs and its content policy forbids every request. Captions,
conditions and names are untrusted: the template escapes them, data goes in as JSON that cannot end a
script, and only scripts that carry the page's nonce run.

To add a panel: its facts in `Facts`, a section in page.html and, where it draws, an entry in `_figures`
(the numbers) and in `figures` in page.html (how they are drawn).
"""

import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from polars import selectors

from curate.errors import RunError
from curate.schema import OUTCOMES

__all__ = ["MAX_CONCEPTS", "MAX_LISTED", "BadShard", "Facts", "StageFacts", "render"]

#: The page lists the largest concepts up to this number.
MAX_CONCEPTS = 1_000
#: Warnings and unreadable shards are listed up to this number each.
MAX_LISTED = 200
EXAMPLE_CHARACTERS = 160
NOTHING, MINUS, SPACE = "\u2013", "\u2212", "\u00a0"
QUANTILES = ("min", "p05", "p25", "median", "p75", "p95", "max")

#: Reasons in the order in which they are decided, and what each says. `kept` stands last.
REASONS = {
    "unusable": "could not be read",
    "exact_duplicate": "a copy of a row that came before it",
    "excluded": "on a list of samples to leave out",
    "leak": "too near a sample of this evaluation set",
    "filter": "did not pass this filter",
    "no_score": "has no score to decide by",
    "near_duplicate": "too similar to a row of its concept",
    "cutoff": "among the noisiest by this score, left out before selecting",
    "over_budget": "usable, but outside what was asked for",
    "kept": "written to the output",
}


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage: how long it took (None where its earlier result was reused), rows, one line of summary."""

    name: str
    seconds: float | None
    rows: int | None
    summary: str


@dataclass(frozen=True, kw_only=True)
class BadShard:
    """An input file that could not be read, and the rows it was known to have."""

    shard: str
    rows: int | None
    message: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """All the page says. Frames may be empty, with or without columns; nulls show as a dash.

    reasons : rows of every reason as `5_decisions` has it, `kept` among them; they add up to `rows_in`.
    concepts : the columns of DECISION_CONCEPTS, and `example` (a caption) where there is one.
    scores : score, min, p05, p25, median, p75, p95, max, n, missing; one row per score.
    distances : bin_start, bin_stop, kept, dropped; rows by their distance to the own concept.
    versions : anything that says where the page comes from, name to value.
    """

    name: str
    rows_in: int
    kept: int
    reasons: Mapping[str, int]
    concepts: pl.DataFrame
    scores: pl.DataFrame
    distances: pl.DataFrame
    stages: Sequence[StageFacts]
    warnings: Sequence[str]
    bad_shards: Sequence[BadShard]
    recipe: str
    versions: Mapping[str, str]
    created: str = ""


def render(facts: Facts) -> str:
    """Return the page of a run as HTML, the same text for the same facts.

    Raises RunError where the reasons do not add up to the rows read, or to the rows kept.
    """
    _check_sums(facts)
    concepts = _largest(facts.concepts)
    figures = _figures(facts, concepts)
    data = _json(figures)
    return _template().render(
        facts=facts,
        unusable=sum(count for reason, count in facts.reasons.items() if _kind(reason) == "unusable"),
        funnel=_funnel(facts),
        concepts=concepts.to_dicts(),
        n_concepts=facts.concepts.height,
        concept_counts=_concept_counts(facts.concepts),
        has_examples="example" in concepts.columns,
        scores=[_score(row) for row in facts.scores.to_dicts()],
        distances=facts.distances.to_dicts(),
        stages=_stages(facts.stages),
        total_seconds=sum(stage.seconds or 0.0 for stage in facts.stages),
        quantiles=QUANTILES,
        max_listed=MAX_LISTED,
        drawn=list(figures),
        data=Markup(data),
        nonce=hashlib.blake2b(f"{data}{facts.recipe}".encode("utf-8", "replace"), digest_size=16).hexdigest(),
        plotly=Markup(get_plotlyjs()) if figures else None,
    )


def _check_sums(facts: Facts) -> None:
    total, kept = sum(facts.reasons.values()), facts.reasons.get("kept", 0)
    if total != facts.rows_in:
        raise RunError(f"report: reasons must add up to {facts.rows_in:,} rows in, got {total:,}")
    if kept != facts.kept:
        raise RunError(f"report: reason 'kept' must count {facts.kept:,} rows, got {kept:,}")


def _kind(reason: str) -> str:
    return reason.split(":", 1)[0]


def _funnel(facts: Facts) -> list[dict[str, Any]]:
    """Return one step per reason, in the order of deciding, with the rows it took and what it left."""
    order = {kind: place for place, kind in enumerate(REASONS)}
    unknown = order["kept"] - 0.5
    taken = {reason: count for reason, count in facts.reasons.items() if reason != "kept"}
    left, steps = facts.rows_in, []
    for reason in sorted(taken, key=lambda reason: order.get(_kind(reason), unknown)):
        left -= taken[reason]
        steps.append(_step(reason, taken[reason], left, facts.rows_in))
    return [*steps, _step("kept", facts.kept, facts.kept, facts.rows_in)]


def _step(reason: str, rows: int, left: int, rows_in: int) -> dict[str, Any]:
    kind, _, detail = reason.partition(":")
    note = OUTCOMES.get(detail) if kind == "unusable" else None
    return {
        "reason": reason,
        "kind": kind if kind in ("kept", "unusable") else "dropped",
        "note": note or REASONS.get(kind, ""),
        "rows": rows,
        "left": left,
        # The part of the bar that is left, then the part that this step took (or, in the last one, kept).
        "left_percent": 0.0 if kind == "kept" else _percent(left, rows_in),
        "percent": _percent(rows, rows_in),
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 3) if whole else 0.0


def _largest(concepts: pl.DataFrame) -> pl.DataFrame:
    """Return the largest concepts with their kept share, size first, then id."""
    if concepts.is_empty():
        return pl.DataFrame()
    numbers = concepts.with_columns(selectors.float().fill_nan(None))
    largest = numbers.sort("n_eligible", "concept", descending=[True, False], nulls_last=True).head(
        MAX_CONCEPTS
    )
    share = pl.when(pl.col("n_eligible") > 0).then(pl.col("kept") / pl.col("n_eligible"))
    return largest.with_columns(share.alias("share"))


def _concept_counts(concepts: pl.DataFrame) -> dict[str, int]:
    if concepts.is_empty():
        return {"at_cap": 0, "at_floor": 0, "empty": 0}
    return {
        "at_cap": concepts.filter("at_cap").height,
        "at_floor": concepts.filter("at_floor").height,
        "empty": concepts.filter(pl.col("n_eligible") == 0).height,
    }


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with its quantiles written to four digits of the largest, and as places in percent."""
    finite = {name: row[name] for name in QUANTILES if _finite(row[name])}
    largest = max((abs(value) for value in finite.values()), default=0.0)
    decimals = min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 3
    text = {name: _number(row[name], decimals) for name in QUANTILES}
    low, high = finite.get("min", 0.0), finite.get("max", 0.0)
    drawn = len(finite) == len(QUANTILES) and high > low
    place = {name: _percent(value - low, high - low) for name, value in finite.items()} if drawn else None
    return {"score": row["score"], "n": row["n"], "missing": row["missing"], "text": text, "place": place}


def _stages(stages: Sequence[StageFacts]) -> list[dict[str, Any]]:
    longest = max((stage.seconds or 0.0 for stage in stages), default=0.0)
    return [{"facts": stage, "percent": _percent(stage.seconds or 0.0, longest)} for stage in stages]


def _figures(facts: Facts, concepts: pl.DataFrame) -> dict[str, dict[str, list[Any]]]:
    """Return the numbers of every figure that has something to show, as columns."""
    found = {}
    if not concepts.is_empty():
        drawn = concepts.filter(pl.col("share").is_not_null() & pl.col("complexity").is_finite())
        names = ["concept", "complexity", "share", "n_eligible", "budget", "kept", "at_cap", "at_floor"]
        columns = drawn.select(names).to_dict(as_series=False)
        examples = drawn["example"].to_list() if "example" in drawn.columns else [None] * drawn.height
        # The figure reads its texts as HTML of its own: escaped once for it, and once more as JSON.
        columns["example"] = [html.escape(_cut(text), quote=False) for text in examples]
        if drawn.height:
            found["complexity"] = columns
    if not facts.distances.is_empty():
        found["distance"] = facts.distances.select("bin_start", "bin_stop", "kept", "dropped").to_dict(
            as_series=False
        )
    return found


def _json(value: object) -> str:
    r"""Return JSON that may stand in a script element: it has no <, > or &.

    >>> _json({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _count(value: int | None) -> str:
    return NOTHING if value is None else f"{value:,}"


def _number(value: float | None, decimals: int = 4) -> str:
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def _share(part: float | None, whole: float | None = 1.0) -> str:
    """Return a share in percent with one decimal; what is not quite none or all never looks so.

    >>> [_share(*pair).replace(SPACE, " ") for pair in [(3, 10), (1, 10_000), (9_999, 10_000)]]
    ['30.0 %', '<0.1 %', '>99.9 %']
    """
    if part is None or not whole:
        return NOTHING
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return f"<0.1{SPACE}%"
    if 99.95 <= percent < 100:
        return f">99.9{SPACE}%"
    return f"{percent:.1f}{SPACE}%"


def _duration(seconds: float | None) -> str:
    """Return a time as people say it.

    >>> [_duration(t).replace(SPACE, " ") for t in (0.0, 0.01, 12.34, 59.96, 125, 3_725, None)]
    ['0.0 s', '<0.1 s', '12.3 s', '1 min 00 s', '2 min 05 s', '1 h 02 min', 'reused']
    """
    if seconds is None:
        return "reused"
    if 0 < seconds < 0.05:
        return f"<0.1{SPACE}s"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"
    return f"{minutes // 60:,}{SPACE}h{SPACE}{minutes % 60:02d}{SPACE}min"


def _cut(text: str | None, limit: int = EXAMPLE_CHARACTERS) -> str:
    text = text or ""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count=_count, number=_number, share=_share, duration=_duration, cut=_cut)
    return environment.from_string(resources.files("curate.report").joinpath("page.html").read_text("utf-8"))
