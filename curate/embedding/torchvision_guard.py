"""Import open_clip where torchvision was built for CUDA and torch was not.

PyPI's torchvision is a CUDA build. Next to a CPU-only torch its import fails with "operator torchvision::nms does
not exist", because its compiled operators do not load, and open_clip imports torchvision. Only the *schemas* of two
operators are missing at import; nothing here ever calls them, so declaring them is enough.
"""

import contextlib
import importlib
import sys
from types import ModuleType
from typing import Any

from curate.process import loading

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # a Library takes its declarations back when it is collected


def import_open_clip() -> ModuleType:
    """Return the module `open_clip`, importing torchvision with declared operators if it does not import as it is."""
    with contextlib.nullcontext() if "open_clip" in sys.modules else loading():
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:  # any other failure (torchvision not installed) is not ours to hide
            if "torchvision::" not in str(error):
                raise
            _forget("torchvision")
            _declare_operators()
            importlib.import_module("torchvision")
        return importlib.import_module("open_clip")


def _declare_operators() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)


def _forget(package: str) -> None:
    """Drop a half-imported package, which would otherwise be found in `sys.modules` and look complete."""
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]
