"""Classes that other packages add: scores (`curate.scores`) and selection methods (`curate.selectors`).

A package names them as entry points in its own pyproject.toml; nothing has to be imported or registered:

    [project.entry-points."curate.scores"]
    sharpness = "my_package.sharpness:Sharpness"
"""

from collections.abc import Collection
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, get_args

from pydantic import BaseModel

from curate.errors import UsageError

__all__ = ["SCORES", "SELECTORS", "are_loaded", "load_plugins"]

#: Groups of entry points.
SCORES, SELECTORS = "curate.scores", "curate.selectors"

#: The field that holds the name of a class, and what such a class is called, for each group.
_KINDS = {SCORES: ("family", "family of scores"), SELECTORS: ("method", "selection method")}

Class = TypeVar("Class", bound=BaseModel)

_loaded: set[str] = set()


def load_plugins(group: str, base: type[Class], taken: Collection[str]) -> dict[str, type[Class]]:
    """Return the classes that installed packages add to a group of entry points, by name, in order of names.

    Parameters
    ----------
    group : str
        `SCORES` or `SELECTORS`.
    base : type
        What the classes must inherit from.
    taken : collection of str
        Names that no plug-in may have.

    Raises
    ------
    UsageError
        If an entry point cannot be imported, is no subclass of `base`, has a name that is taken, or another name than
        its class. The message names the package, the entry point and the reason, because a plug-in that is left out
        would change what a recipe does.
    """
    found: dict[str, type[Class]] = {}
    for entry in sorted(entry_points(group=group), key=lambda one: one.name):
        loaded = _load(entry)
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise UsageError(
                f"{_where(entry)} must be a subclass of {base.__name__}, got {loaded!r}; "
                f"mend or uninstall {_package(entry)}"
            )
        field, kind = _KINDS[group]
        if entry.name in taken:
            raise UsageError(
                f"{_where(entry)}: curate has a {kind} {entry.name!r} of its own; rename that of the plug-in"
            )
        if entry.name in found:
            raise UsageError(
                f"{_where(entry)}: another package adds a {kind} {entry.name!r} too; uninstall one"
            )
        named = loaded.model_fields[field]
        if get_args(named.annotation) != (entry.name,) or named.default != entry.name:
            rule = f'{field}: Literal["{entry.name}"] = "{entry.name}"'
            raise UsageError(f"{_where(entry)} must declare {rule}, got {named!r}")
        found[entry.name] = loaded
    _loaded.update(found)
    return found


def are_loaded() -> bool:
    """Return True if any class of another package was loaded in this process."""
    return bool(_loaded)


def _load(entry: EntryPoint) -> object:
    """Return what an entry point names; raises UsageError where it cannot be imported."""
    try:
        return entry.load()
    except Exception as error:  # whatever the code of another package raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(
            f"{_where(entry)} cannot be loaded: {reason}; mend or uninstall {_package(entry)}"
        ) from error


def _where(entry: EntryPoint) -> str:
    return f"plug-in {entry.name!r} of {_package(entry)} ({entry.group}: {entry.value})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown package"
