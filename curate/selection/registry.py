"""Which selection methods there are: the classes in the files of this package, and those of other packages."""

import functools
import importlib
import pkgutil

from curate import selection
from curate.errors import UsageError
from curate.plugins import SELECTORS, load_plugins
from curate.selection.base import Selector

__all__ = ["owners", "selectors"]

#: The method of a recipe that names none.
DEFAULT = "density"


@functools.cache
def selectors() -> dict[str, type[Selector]]:
    """Return the class of each method, by name: in the order in which they are listed.

    Raises UsageError for a plug-in that cannot be used.
    """
    for module in pkgutil.iter_modules(selection.__path__):
        if not module.ispkg:
            importlib.import_module(f"{selection.__name__}.{module.name}")
    found = {str(one.model_fields["method"].default): one for one in _below(Selector)}
    for name, added in load_plugins(SELECTORS, Selector, found).items():
        _require_whole(name, added)
        found[name] = added
    return dict(sorted(found.items(), key=lambda item: (item[1].place, item[0])))


def _below(base: type[Selector]) -> list[type[Selector]]:
    """Return the subclasses of a class in this package, at any depth."""
    found = []
    for one in base.__subclasses__():
        found += [one, *_below(one)] if one.__module__.startswith(f"{selection.__name__}.") else []
    return [one for one in found if isinstance(one.model_fields["method"].default, str)]


def _require_whole(name: str, added: type[Selector]) -> None:
    """Raise UsageError for a method of another package that lacks what is asked of every method."""
    lacks = [word for word in ("keeps", "avoid") if not getattr(added, word, "")]
    lacks += [word for word in ("fit", "standing") if getattr(added, word) is getattr(Selector, word)]
    if lacks:
        where = f"plug-in {name!r} ({SELECTORS}: {added.__module__}:{added.__qualname__})"
        raise UsageError(f"{where} must define {' and '.join(lacks)}")


def owners(setting: str) -> list[str]:
    """Return the methods that have a setting."""
    return [name for name, one in selectors().items() if setting in one.model_fields]
