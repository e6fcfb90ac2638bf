"""Classes that other packages add: scores (`curate.scores`) and selection methods (`curate.selectors`).

A package names them as entry points in its own pyproject.toml; nothing has to be imported or registered:

    [project.entry-points."curate.scores"]
    sharpness = "my_package.sharpness:Sharpness"
"""

import functools
from importlib.metadata import entry_points
from typing import TypeVar

from curate.errors import UsageError

__all__ = ["SCORES", "SELECTORS", "load_plugins"]

#: Groups of entry points.
SCORES, SELECTORS = "curate.scores", "curate.selectors"

Class = TypeVar("Class")


@functools.cache
def load_plugins(group: str, base: type[Class]) -> dict[str, type[Class]]:
    """Return the classes that installed packages add to a group of entry points, by name, in order of names.

    Parameters
    ----------
    group : str
        `SCORES` or `SELECTORS`.
    base : type
        What the classes must inherit from.

    Raises
    ------
    UsageError
        If an entry point cannot be imported, or is no subclass of `base`; the message names the package, the entry
        point and the reason, because a plug-in that is left out would change what a recipe does.
    """
    found: dict[str, type[Class]] = {}
    for entry in sorted(entry_points(group=group), key=lambda one: one.name):
        package = entry.dist.name if entry.dist is not None else "an unknown package"
        where = f"plug-in {entry.name!r} of {package} ({group}: {entry.value})"
        try:
            loaded = entry.load()
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UsageError(f"{where} cannot be loaded: {reason}; mend or uninstall {package}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, base)):
            raise UsageError(
                f"{where} must be a subclass of {base.__name__}, got {loaded!r}; mend or uninstall {package}"
            )
        found[entry.name] = loaded
    return found
