"""Which ways of weighing samples there are: the classes in the files of this package."""

import functools
import importlib
import pkgutil

from curate import weighting
from curate.weighting.base import Weigher

__all__ = ["owners", "weighers"]

#: Files that read the tables of a run; settings must not wait for what they need.
_STAGES = ("stage_weights",)


@functools.cache
def weighers() -> dict[str, type[Weigher]]:
    """Return the class of each method, by name, in the order in which they are listed."""
    for module in pkgutil.iter_modules(weighting.__path__):
        if module.name not in _STAGES:
            importlib.import_module(f"{weighting.__name__}.{module.name}")
    found = {str(one.model_fields["method"].default): one for one in _below(Weigher)}
    return dict(sorted(found.items(), key=lambda item: item[1].place))


def _below(base: type[Weigher]) -> list[type[Weigher]]:
    """Return the subclasses of a class, at any depth, that are methods."""
    found = [below for one in base.__subclasses__() for below in (one, *_below(one))]
    return [one for one in found if isinstance(one.model_fields["method"].default, str)]


def owners(setting: str) -> list[str]:
    """Return the methods that have a setting."""
    return [name for name, one in weighers().items() if setting in one.model_fields]
