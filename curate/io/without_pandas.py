"""Keep pandas out of processes that are curate's own: PyArrow imports it wherever it is installed, and nothing here needs it.

PyArrow asks for pandas with every list that becomes an array, which takes half a processor second in each process of a
run. What imports pandas by itself (a library, the user's code) gets it as ever.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

__all__ = ["keep_pandas_out"]

#: Whose calls bring pandas in without a need.
_NOT_FOR = ("curate", "pyarrow")


class _Refusal(MetaPathFinder):
    """Says that there is no pandas, to PyArrow where this package calls it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for pandas, where it is asked for on behalf of this package; know nothing else."""
        if name == "pandas" and _asking() in _NOT_FOR and not _plugins_are_loaded():
            raise ModuleNotFoundError("pandas is not needed here", name=name)
        return None


def _plugins_are_loaded() -> bool:
    from curate.plugins import are_loaded  # here: the command line imports this module before anything else

    return are_loaded()


def keep_pandas_out() -> None:
    """Let PyArrow find no pandas in this process, where the code of this package calls it.

    Where plug-ins are loaded nothing changes: they may hand frames of pandas to PyArrow.
    """
    if not any(isinstance(finder, _Refusal) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Refusal())


def _asking() -> str:
    """Return the package whose code runs: that of the innermost frame that is none of the import system's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name not in ("importlib", "_frozen_importlib", "_frozen_importlib_external"):
            return name
        frame = frame.f_back
    return ""
