"""One page with four figures of a plan: budgets over shares, duplicates over epsilon, temperature, cost."""

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["figure", "page"]

#: Concepts shown of more: every so many in the order of complexity.
MOST_CONCEPTS = 300


def page(plan: Mapping[str, Any]) -> str:
    """Return a whole HTML page, script included, of what `curate.analysis.plan.plan` found."""
    text: str = figure(plan).to_html(include_plotlyjs=True, full_html=True)
    title = html.escape(f"Plan of {plan['run']}")
    head = f'<head><title>{title}</title><meta name="viewport" content="width=device-width">'
    return text.replace("<html>", '<html lang="en">', 1).replace("<head>", head, 1)


def figure(plan: Mapping[str, Any]) -> "go.Figure":
    """Return the four figures; those without data are empty."""
    from plotly.subplots import make_subplots

    titles = (
        "Share kept of each concept, simplest first",
        "Near-duplicates over epsilon",
        "Effective concepts over temperature",
        "Training samples",
    )
    found = make_subplots(2, 2, subplot_titles=titles, vertical_spacing=0.16, horizontal_spacing=0.12)
    _budgets(found, plan)
    _epsilons(found, plan)
    _temperatures(found, plan)
    _cost(found, plan)
    found.update_layout(
        height=900, showlegend=False, template="plotly_white", title=f"Plan of {html.escape(plan['run'])}"
    )
    return found


def _budgets(found: "go.Figure", plan: Mapping[str, Any]) -> None:
    import plotly.graph_objects as go

    kept = [entry for entry in plan["keep"] if entry["budgets"] is not None]
    places = [place for place, one in enumerate(plan["concepts"]) if one["n_eligible"]]
    places.sort(key=lambda place: plan["concepts"][place]["complexity"])
    places = places[:: max(1, -(-len(places) // MOST_CONCEPTS))]
    sizes = [plan["concepts"][place]["n_eligible"] for place in places]
    shares = [
        [entry["budgets"][place] / size for entry in kept] for place, size in zip(places, sizes, strict=True)
    ]
    names = [f"concept {plan['concepts'][place]['concept']}" for place in places]
    found.add_trace(
        go.Heatmap(
            z=shares, x=[f"{entry['keep']:g}" for entry in kept], y=names, colorscale="Cividis", zmin=0, zmax=1,
            colorbar={"len": 0.42, "y": 0.79, "x": 0.45, "thickness": 10}, hovertemplate="%{y}, keep %{x}: %{z:.1%}<extra></extra>",
        ), row=1, col=1,
    )  # fmt: skip
    found.update_xaxes(title="keep", type="category", row=1, col=1)
    found.update_yaxes(showticklabels=False, row=1, col=1)


def _epsilons(found: "go.Figure", plan: Mapping[str, Any]) -> None:
    import plotly.graph_objects as go

    x = [rate["epsilon"] for rate in plan["epsilon"]]
    for name, fill in (("at_most", None), ("at_least", "tonexty")):
        y = [rate[name] / max(rate["compared"], 1) for rate in plan["epsilon"]]
        found.add_trace(
            go.Scatter(x=x, y=y, mode="lines+markers", fill=fill, name=name.replace("_", " ")), row=1, col=2
        )
    found.update_xaxes(title="epsilon", type="log", row=1, col=2)
    found.update_yaxes(title="share dropped of the rows compared", tickformat=".0%", row=1, col=2)


def _temperatures(found: "go.Figure", plan: Mapping[str, Any]) -> None:
    import plotly.graph_objects as go

    rows = plan["temperature"]
    ratios = ["infinite" if row["ratio"] is None else f"{row['ratio']:,.3g}" for row in rows]
    found.add_trace(
        go.Scatter(
            x=[row["temperature"] for row in rows], y=[row["effective_concepts"] for row in rows],
            mode="lines+markers", text=ratios,
            hovertemplate="temperature %{x}: %{y:.1f} concepts, largest to smallest share %{text}<extra></extra>",
        ), row=2, col=1,
    )  # fmt: skip
    found.update_xaxes(title="temperature", type="log", row=2, col=1)
    found.update_yaxes(title="exp(entropy of the shares)", rangemode="tozero", row=2, col=1)


def _cost(found: "go.Figure", plan: Mapping[str, Any]) -> None:
    import plotly.graph_objects as go

    rows = plan["cost"]
    found.add_trace(
        go.Bar(
            x=[row["data"] for row in rows], y=[row["samples"] for row in rows],
            text=[f"{row['rows']:,} rows" for row in rows], textposition="none",
            hovertemplate="%{x}: %{y:,} samples, %{text}<extra></extra>",
        ), row=2, col=2,
    )  # fmt: skip
    found.update_yaxes(title="samples", rangemode="tozero", row=2, col=2)
