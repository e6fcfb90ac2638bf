"""One page of an evaluation: share against each metric, with the band of random draws and the line of all rows."""

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["EVALUATION_VERSION", "METRICS", "figure", "lines", "page", "table"]

#: How what an evaluation found is laid out; the report shows no other.
EVALUATION_VERSION = 1
#: What is shown of the metrics, the one that decides first, with words for people.
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "worst_class": "recall of the worst class",
    "calibration_error": "calibration error (less is better)",
    "recall_1": "recall at 1",
    "recall_5": "recall at 5",
    "recall_10": "recall at 10",
}
_SHORT = {"balanced_accuracy": "balanced", "worst_class": "worst class", "calibration_error": "calibration"}
_BAND = "where chance alone puts a random draw"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#444444")


def page(found: Mapping[str, Any]) -> str:
    """Return a whole HTML page, script included, of what `curate.evaluation.evaluate.evaluate_run` found."""
    plot: str = figure(found).to_html(include_plotlyjs=True, full_html=False)
    title = f"Evaluation of {html.escape(str(found['run']))}"
    held = found["held_out"]
    facts = (
        f"Judged by {html.escape(found['judge'])}: {html.escape(found['judged_by'])}. {held['judging']:,} held-out rows judge "
        f"({html.escape(held['how'])}); the pool has {found['all']['rows']:,} rows; {found['steps']:,} steps of "
        f"{found['batch']} rows, {found['seeds']} seeds. A star: beyond what chance alone gives in 19 of 20 cases."
    )
    says = "".join(f"<li>{html.escape(line)}</li>" for line in found["says"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1><p>{facts}</p><ul>{says}</ul>"
        f"{_table_html(found)}{plot}</body></html>"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    "td,th{white-space:nowrap}td:first-child,th:first-child{text-align:left}"
)


def table(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table: all rows, then random draws and subsets of each share.

    Numbers are in percent; behind each stands its difference to random draws, with a star where chance does not explain it.
    """
    metrics = [name for name in METRICS if name in found["all"]["metrics"]]
    words = [word for name in metrics for word in (_SHORT.get(name, METRICS[name]), "to random")]
    header = ["", "share", "rows", *words]
    whole = found["all"]
    lines = [["all rows", "", f"{whole['rows']:,}", *_cells(whole["metrics"], metrics)]]
    for one in found["shares"]:
        share = f"{one['share']:.1%}"
        lines.append(
            [f"random, {one['draws']} draws", share, f"{one['rows']:,}", *_cells(one["random"], metrics)]
        )
        for subset in one["subsets"]:
            name = subset["name"] + (", weighted" if subset["weighted"] else "")
            lines.append([name, share, f"{subset['rows']:,}", *_cells(subset["metrics"], metrics)])
    return header, lines


def _cells(values: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    cells = []
    for name in metrics:
        one = values[name]
        around = "" if one["interval"] is None else f" ± {100 * one['interval']:.1f}"
        gap = f"{100 * one['difference']:+.1f}{'*' if one['beyond'] else ''}" if "difference" in one else ""
        cells += [f"{100 * one['value']:.1f}{around}", gap]
    return cells


def _table_html(found: Mapping[str, Any]) -> str:
    header, lines = table(found)
    head = "".join(f"<th>{html.escape(word)}</th>" for word in header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def figure(found: Mapping[str, Any]) -> "go.Figure":
    """Return one plot per metric."""
    from plotly.subplots import make_subplots

    metrics = [name for name in METRICS if name in found["all"]["metrics"]]
    rows = -(-len(metrics) // 2)
    drawn = make_subplots(
        rows,
        2,
        subplot_titles=[METRICS[name] for name in metrics],
        vertical_spacing=0.14,
        horizontal_spacing=0.1,
    )
    for place, metric in enumerate(metrics):
        _metric(drawn, found, metric, place // 2 + 1, place % 2 + 1, legend=place == 0)
    drawn.update_xaxes(title="share of the pool", tickformat=".0%")
    drawn.update_yaxes(tickformat=".1%")
    drawn.update_layout(height=420 * rows, template="plotly_white", legend={"orientation": "h", "y": 1.12})
    return drawn


def lines(found: Mapping[str, Any], metric: str | None = None) -> dict[str, Any]:
    """Return the numbers of one plot: shares with random draws and their band, all rows, and each subset.

    metric : by default the one by which subsets are compared first.
    """
    metric = found["main"] if metric is None else metric
    shares = found["shares"]
    names = list(dict.fromkeys(subset["name"] for one in shares for subset in one["subsets"]))
    points: dict[str, list[tuple[float, Mapping[str, Any]]]] = {name: [] for name in names}
    for one in shares:
        for subset in one["subsets"]:
            points[subset["name"]].append((one["share"], subset["metrics"][metric]))
    return {
        "metric": METRICS[metric],
        "x": [one["share"] for one in shares],
        "random": [one["random"][metric]["value"] for one in shares],
        "band": [_band(one, metric) for one in shares],
        "all": found["all"]["metrics"][metric]["value"],
        "subsets": [
            {
                "name": name, "x": [share for share, _ in some], "y": [facts["value"] for _, facts in some],
                "interval": [facts["interval"] or 0.0 for _, facts in some],
            }
            for name, some in points.items()
        ],
    }  # fmt: skip


def _metric(
    drawn: "go.Figure", found: Mapping[str, Any], metric: str, row: int, column: int, *, legend: bool
) -> None:
    import plotly.graph_objects as go

    numbers = lines(found, metric)
    x, mean, half = numbers["x"], numbers["random"], numbers["band"]
    upper, lower = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (1, -1))
    grey = {"color": "#888888"}

    def add(trace: "go.Scatter", group: str) -> None:
        trace.update(showlegend=legend, legendgroup=group)
        drawn.add_trace(trace, row=row, col=column)

    if len(x) > 1:
        add(
            go.Scatter(
                x=[*x, *reversed(x)], y=[*upper, *reversed(lower)], fill="toself", mode="lines", fillcolor="rgba(136,136,136,.25)",
                line={"width": 0}, name=_BAND, hoverinfo="skip",
            ), "band",
        )  # fmt: skip
    bars = {} if len(x) > 1 else {"error_y": {"type": "data", "array": half, "thickness": 2, "width": 12}}
    add(
        go.Scatter(
            x=x,
            y=mean,
            mode="lines+markers",
            name="random draws" if len(x) > 1 else f"random draws, {_BAND}",
            line=grey,
            **bars,
        ),
        "random",
    )
    everything = [numbers["all"]] * 2
    add(
        go.Scatter(
            x=_ends(x),
            y=everything,
            mode="lines",
            name="all rows",
            line={"color": "#222222", "dash": "dash"},
        ),
        "all",
    )
    for place, one in enumerate(numbers["subsets"]):
        style = {
            "color": _COLOURS[place % len(_COLOURS)],
            "dash": "dot" if one["name"] == "placebo" else "solid",
        }
        around = [f"± {100 * half:.1f} over seeds" for half in one["interval"]]
        add(
            go.Scatter(
                x=one["x"], y=one["y"], mode="lines+markers", name=html.escape(one["name"]), line=style, text=around,
                hovertemplate="%{y:.1%} %{text}",
            ),
            one["name"],
        )  # fmt: skip


def _ends(x: Sequence[float]) -> list[float]:
    """Return where a line over all shares begins and ends: of one share, a little beside it."""
    return [min(x), max(x)] if len(x) > 1 else [0.9 * x[0], min(1.0, 1.1 * x[0])]


def _band(share: Mapping[str, Any], metric: str) -> float:
    """Return how far from the mean of the draws one more draw is found by chance; the same for each subset."""
    return next((float(one["metrics"][metric]["chance"]) for one in share["subsets"]), 0.0)
