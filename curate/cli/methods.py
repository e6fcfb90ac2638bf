"""What there is to choose from: every selection method, weight and score, and what people need to know of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, write

__all__ = ["described", "markdown", "methods"]

#: What is said of a method, and how the line begins.
_WORDS = {
    "needs": "needs", "direction": "first", "cost": "costs", "avoid": "not", "paper": "paper",
}  # fmt: skip


@app.command()
def methods(
    json_: flag.Json = False,
    tables: Annotated[bool, Option("--markdown", help="Print the tables that stand in the README.")] = False,
) -> None:
    """Say which selection methods, weights and scores there are, what each needs, and when not to take it."""
    if tables:
        write("\n".join(markdown()))
    elif json_:
        emit(described())
    else:
        write("\n".join(_lines(described())) + "\n")


def described() -> dict[str, list[dict[str, Any]]]:
    """Return every selection method, weight and score as plain values."""
    from curate.scores.columns import SCORES
    from curate.selection.registry import selectors
    from curate.weighting.registry import weighers

    scores = [
        {"score": name, "family": one.family, "higher_is": one.higher_is, "needs": one.needs}
        for name, one in SCORES.items()
    ]
    kinds: Mapping[str, tuple[Mapping[str, Any], str]] = {
        "select": (selectors(), "keeps"),
        "weight": (weighers(), "weighs"),
    }
    found = {
        section: [_described(name, one, does) for name, one in classes.items()]
        for section, (classes, does) in kinds.items()
    }
    return {**found, "score": scores}


def _described(name: str, one: Any, does: str) -> dict[str, Any]:  # noqa: ANN401  (a class of either kind)
    settings = {key: field.default for key, field in one.model_fields.items() if key != "method"}
    return {"method": name, "does": getattr(one, does), **{word: getattr(one, word) for word in _WORDS}} | {
        "settings": settings
    }


def _lines(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield what is printed for people."""
    for section in ("select", "weight"):
        yield f"{section}.method"
        for one in found[section]:
            yield f"  {one['method']}: {one['does'].replace('`', '')}"
            yield from (
                f"    {begins:<9}{'when ' * (word == 'avoid')}{one[word].removeprefix('when ').replace('`', '')}"
                for word, begins in _WORDS.items()
                if one[word]
            )
            settings = (f"{name}={_shown(value)}" for name, value in one["settings"].items())
            yield f"    {'settings':<9}{', '.join(settings)}"
        yield ""
    yield "scores (a higher value is)"
    yield from (
        f"  {one['score']} ({one['higher_is']}): {one['family'] or 'concepts'}, of {one['needs']}"
        for one in found["score"]
    )


def _shown(value: object) -> str:
    """Return a default as it is written in a recipe.

    >>> _shown(None), _shown((0.01, 0.99)), _shown("hardest")
    ('null', '[0.01, 0.99]', 'hardest')
    """
    return value if isinstance(value, str) else json.dumps(value)


def markdown() -> tuple[str, str]:
    """Return the tables of selection methods and of weights, as they stand in the README."""
    found = described()
    return (
        _table("select.method", "keeps", found["select"]),
        _table("weight.method", "weight of a kept sample", found["weight"]),
    )


def _table(name: str, does: str, rows: list[dict[str, Any]]) -> str:
    lines = [f"| `{name}` | {does} | not when |", "|---|---|---|"]
    return (
        "\n".join(
            [
                *lines,
                *(
                    f"| `{one['method']}` | {one['does']} | {one['avoid'].removeprefix('when ')} |"
                    for one in rows
                ),
            ]
        )
        + "\n"
    )
