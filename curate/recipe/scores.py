"""Which scores are computed: the list `score` of a recipe, of the classes that the registry finds.

A family is named alone (`pair`), with its settings (`{pair: {batch: 2048}}`), or is a table of the user's
own (`{file: my.parquet}`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from curate.scores.base import Score
from curate.scores.registry import families
from curate.settings import listed

__all__ = ["FAMILIES", "Family", "dumped", "tagged"]

#: The classes by name, those of plug-ins last.
FAMILIES: dict[str, type[Score]] = families()

if TYPE_CHECKING:
    Family = Score
else:
    Family = Annotated[Union[tuple(FAMILIES.values())], Field(discriminator="family")]  # noqa: UP007


def tagged(entries: object) -> object:
    """Return the list `score` of a recipe with the family of each entry written out, for checking.

    >>> tagged(["pair", {"heads": {"seeds": 3}}, {"file": "x.parquet"}])
    [{'family': 'pair'}, {'seeds': 3, 'family': 'heads'}, {'file': 'x.parquet', 'family': 'file'}]
    """
    entries = listed(entries)
    if entries is None:
        return ()
    return [_tagged(entry) for entry in entries] if isinstance(entries, list | tuple) else entries


def _tagged(entry: object) -> object:
    if isinstance(entry, str):
        return {"family": entry}
    if not isinstance(entry, Mapping) or "family" in entry:
        return entry
    if "file" in entry:
        return {**entry, "family": "file"}
    if len(entry) == 1:
        name, settings = next(iter(entry.items()))
        if isinstance(settings, Mapping) or settings is None:
            return {**(settings or {}), "family": name}
    known = ", ".join(FAMILIES)
    raise ValueError(f"must list families ({known}), each alone or with settings, got {dict(entry)!r}")


def dumped(family: Score) -> object:
    """Return a family as it stands in a recipe: with every setting, except where there is none."""
    values = family.model_dump(mode="json", exclude={"family"})
    if family.family == "file":
        return values
    return {family.family: values} if values else family.family
