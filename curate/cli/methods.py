"""What there is to choose from: every selection method, weight and score, and what people need to know of it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, write
from curate.errors import UsageError

__all__ = ["described", "markdown", "methods"]

#: What is said of a method, and how the line begins.
_WORDS = {
    "needs": "needs", "direction": "first", "cost": "costs", "avoid": "not", "paper": "paper",
}  # fmt: skip


#: How each section begins, and what its entries are called.
_TITLES = {
    "select": ("select.method", "method"),
    "weight": ("weight.method", "method"),
    "family": ("score", "family"),
}


@app.command()
def methods(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these methods, weights and scores.")
    ] = None,
    all_: Annotated[
        bool, Option("--all", help="Of all what each needs and costs, its settings, and when not to take it.")
    ] = False,
    json_: flag.Json = False,
    tables: Annotated[
        bool, Option("--markdown", help="Print the tables of docs/scores.md and docs/methods.md.")
    ] = False,
) -> None:
    """Say which selection methods, weights and scores there are; with names what each needs, and when not to take it."""
    if tables and names:
        raise UsageError("--markdown prints whole tables: leave the names out")
    if tables:
        write("\n".join(markdown()))
        return
    found = _named(described(), names or ())
    if json_:
        emit(found)
    else:
        write("\n".join(_lines(found) if names or all_ else _in_short(found)) + "\n")


def described() -> dict[str, list[dict[str, Any]]]:
    """Return every selection method, weight, family of scores and score column as plain values."""
    from curate.scores.registry import families, known_scores
    from curate.selection.registry import selectors
    from curate.weighting.registry import weighers

    kinds: Mapping[str, tuple[Mapping[str, Any], str]] = {
        "select": (selectors(), "keeps"),
        "weight": (weighers(), "weighs"),
    }
    found = {
        section: [_described(name, one, does) for name, one in classes.items()]
        for section, (classes, does) in kinds.items()
    }
    found["family"] = [
        {
            "family": name, "does": one.measures, "columns": list(one.outputs), "needs": one.requires, "cost": one.cost,
            "avoid": one.avoid, "paper": one.paper, "settings": _settings(one, "family"),
        }
        for name, one in families().items()
    ]  # fmt: skip
    found["score"] = [
        {"score": name, "family": one.family, "higher_is": one.higher_is, "needs": one.needs}
        for name, one in known_scores().items()
    ]
    return found


def _named(found: dict[str, list[dict[str, Any]]], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return what goes by one of some names, of a score column its family too; everything without names."""
    if not names:
        return found
    known = {name for section in found.values() for one in section for name in _names(one)}
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`curate methods` lists all"
            raise UsageError(f"there is no method, weight or score {name!r}; {hint}")
    families = {one["family"] for one in found["score"] if one["score"] in names}
    return {
        section: [
            one for one in rows
            if not _names(one).isdisjoint(names) or (section == "family" and one["family"] in families)
        ]
        for section, rows in found.items()
    }  # fmt: skip


def _names(one: Mapping[str, Any]) -> set[str]:
    """Return what an entry goes by: the name of a method or weight; of scores the family, and that of a column."""
    return {one[key] for key in ("method", "family", "score") if one.get(key)}


def _settings(one: Any, name: str) -> dict[str, Any]:  # noqa: ANN401  (a class of settings of any kind)
    """Return the settings of a class with their defaults; null where there is none, since the user must say it."""
    fields = {key: field for key, field in one.model_fields.items() if key != name}
    return {
        key: None if field.is_required() else _plain(field.get_default(call_default_factory=True))
        for key, field in fields.items()
    }


def _plain(value: Any) -> Any:  # noqa: ANN401
    """Return a default as JSON can hold it."""
    return value if isinstance(value, str | int | float | bool | tuple | list | None) else str(value)


def _described(name: str, one: Any, does: str) -> dict[str, Any]:  # noqa: ANN401  (a class of either kind)
    words = {word: getattr(one, word) for word in _WORDS}
    return {"method": name, "does": getattr(one, does), **words, "settings": _settings(one, "method")}


def _in_short(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield a line for each method, weight and family of scores."""
    for section, (title, name) in _TITLES.items():
        yield title
        yield from (f"  {one[name]}: {one['does'].replace('`', '')}" for one in found[section])
        yield ""
    yield "What one needs and costs, its settings, and when not to take it: curate methods NAME; of all: --all"


def _lines(found: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Yield what is printed for people. Settings that all selection methods have are said once."""
    from curate.selection.base import Selector

    common = _settings(Selector, "method")
    for section, (title, name) in _TITLES.items():
        if not found[section]:
            continue
        yield title
        if section == "select":
            yield f"  all methods: {_shown_settings(common)}"
        for one in found[section]:
            yield f"  {one[name]}: {one['does'].replace('`', '')}"
            yield from (
                f"    {begins:<9}{'when ' * (word == 'avoid' and section != 'family')}"
                f"{one[word].removeprefix('when ').replace('`', '')}"
                for word, begins in _WORDS.items()
                if one.get(word)
            )
            shared = common if section == "select" else {}
            own = {key: value for key, value in one["settings"].items() if (key, value) not in shared.items()}
            if own:
                yield f"    {'settings':<9}{_shown_settings(own)}"
        yield ""
    if found["score"]:
        yield "scores (a higher value is)"
    yield from (
        f"  {one['score']} ({one['higher_is']}): {one['family'] or 'concepts'}, of {one['needs']}"
        for one in found["score"]
    )


def _shown_settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in settings.items())


def _shown(value: object) -> str:
    """Return a default as it is written in a recipe.

    >>> _shown(None), _shown((0.01, 0.99)), _shown("hardest")
    ('null', '[0.01, 0.99]', 'hardest')
    """
    return value if isinstance(value, str) else json.dumps(value)


def markdown() -> tuple[str, ...]:
    """Return the tables of scores, selection methods and weights, as they stand in docs/scores.md and docs/methods.md."""
    found = described()
    families = [
        {**one, "method": one["family"], "columns": ", ".join(_shown_columns(one["columns"]))}
        for one in found["family"]
    ]
    return (
        _table(("in `score:`", "measures", "columns", "needs"), families, ("does", "columns", "needs")),
        _table(("`select.method`", "keeps", "not when"), found["select"], ("does", "avoid")),
        _table(
            ("`weight.method`", "weight of a kept sample", "not when"), found["weight"], ("does", "avoid")
        ),
    )


def _shown_columns(columns: list[str]) -> list[str]:
    """Return columns of scores without those of their spread over seeds, which have the same names with `_std`.

    >>> _shown_columns(["el2n", "el2n_std", "loss"])
    ['el2n', 'loss']
    """
    return [name for name in columns if not name.endswith("_std")] or ["as you name them"]


def _table(header: tuple[str, ...], rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for one in rows:
        cells = [f"`{one['method']}`", *(str(one[name]).removeprefix("when ") for name in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
