"""A head that somebody trained, on the vectors: aesthetics, NSFW and watermark heads in the manner of LAION.

LAION's aesthetic heads are a linear layer on unit vectors of CLIP ViT-L/14 (or B/32, B/16) by OpenAI; the later ones a few linear
layers behind each other. Their `.pth` files are turned into safetensors by two lines, see docs/quality-columns.md.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError, UsageError
from curate.linalg import sigmoid
from curate.scores.base import ColumnName, Score, ScoreColumn, Sources, file_of
from curate.scores.columns import Column, Direction

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Linear", "apply_layers", "read_layers"]

_ROWS = 256  # rows of a tile of products

Floats = npt.NDArray[np.float64]
#: Weights (out, in) and bias (out,) of each layer.
Layers = Sequence[tuple[Floats, Floats]]
#: What weights and biases are called in files, by torch, scikit-learn and hand.
_WEIGHT, _BIAS = ("weight", "w", "coef", "coef_"), ("bias", "b", "intercept", "intercept_")


class Linear(Score):
    """w x + b on the unit vectors, of a file of weights (`.npz` or `.safetensors`); or several layers behind each other.

    name : of the column. activation : what stands between layers. sigmoid : whether the number is a logit and a
    probability is wanted. higher_is : what a higher value means.
    """

    measures: ClassVar[str] = "what a head of yours says of a vector, such as aesthetics"
    paper: ClassVar[str] = "LAION-AI/aesthetic-predictor; Schuhmann et al. 2022, arXiv:2210.08402"
    cost: ClassVar[str] = "samples x weights"
    requires: ClassVar[str] = "weights of a head, trained on vectors of the same model"
    avoid: ClassVar[str] = "with vectors of another model than the head was trained on: it then says nothing"
    place: ClassVar[int] = 11

    family: Literal["linear"] = "linear"
    weights: Annotated[
        str, file_of(".npz", ".safetensors", hint="docs/quality-columns.md makes one of a .pth file")
    ]
    name: ColumnName = "linear"
    activation: Literal["none", "relu"] = "none"
    sigmoid: bool = False
    higher_is: Direction = "better"

    def columns_made(self) -> Mapping[str, Column]:
        """Return the one column, of the name that the user gave."""
        return {self.name: Column(self.higher_is)}

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers: what the file holds, not where it lies."""
        return self.model_dump(mode="json", exclude={"weights"})

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a file that is not there or holds no head."""
        read_layers(Path(self.weights))

    def inputs(
        self, context: "Context", columns: "Mapping[str, ScoreColumn]", sources: Sources
    ) -> list[object]:
        """Return the hash of the file."""
        from curate.io import storage

        return [storage.hash_file(Path(self.weights))]

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return the layers."""
        return {"layers": read_layers(Path(self.weights))}

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return what the head says of each vector."""
        found = apply_layers(rows["image"], rows["layers"], relu=self.activation == "relu")
        return {self.name: sigmoid(found) if self.sigmoid else found}


def apply_layers(vectors: npt.NDArray[np.float32], layers: Layers, *, relu: bool = False) -> Floats:
    """Return the output of layers behind each other for each row, (n,).

    vectors : (n, d) unit rows. layers : weights (out, in) and bias (out,), the first takes d numbers and the last gives
    one. relu : whether max(0, x) stands between them. In float64 by whole tiles, so that a value depends on its row
    alone. Raises EmbeddingError where the first layer takes another number of values.

    >>> apply_layers(np.array([[0.6, 0.8]], np.float32), [(np.array([[1.0, 2.0]]), np.array([0.5]))]).round(6)
    array([2.7])
    """
    if layers[0][0].shape[1] != vectors.shape[1]:
        raise EmbeddingError(
            f"linear.weights: the head takes vectors of {layers[0][0].shape[1]} numbers, those of the samples have "
            f"{vectors.shape[1]}; it was trained on another model"
        )
    found = np.empty(len(vectors))
    for start in range(0, len(vectors), _ROWS):
        some = vectors[start : start + _ROWS]
        block = np.zeros((_ROWS, vectors.shape[1]))
        block[: len(some)] = some
        for place, (weight, bias) in enumerate(layers):
            block = block @ weight.T + bias
            if relu and place + 1 < len(layers):
                np.maximum(block, 0.0, out=block)
        found[start : start + _ROWS] = block[: len(some), 0]
    return found


def read_layers(path: Path) -> list[tuple[Floats, Floats]]:
    """Return the layers of a file, in the order of the numbers in their names.

    A layer is what stands before `weight` (out, in) and, if there is one, `bias` (out,), as torch names them; (in,)
    counts as (1, in). Raises UsageError for a file that is not there, is no such file, or holds no head of one output.
    """
    found: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, array in _arrays(path).items():
        before, _, last = name.rpartition(".")
        kind = "weight" if last in _WEIGHT else "bias" if last in _BIAS else None
        if kind is None:
            raise UsageError(
                f"linear.weights: {path}: {name!r} is neither a weight nor a bias; a head has weight and bias, or such "
                "of several layers (0.weight, 0.bias, 1.weight)"
            )
        if kind in found.setdefault(before, {}):
            raise UsageError(f"linear.weights: {path} has two arrays for the {kind} of a layer; leave one")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise UsageError(f"linear.weights: {path}: {name!r} must hold finite floats, got {array.dtype}")
        found[before][kind] = array.astype(np.float64)
    order = sorted(found, key=lambda one: [(int(n), "") if n.isdigit() else (-1, n) for n in _pieces(one)])
    return _chained(path, [_layer(path, name, found[name]) for name in order])


def _pieces(name: str) -> list[str]:
    return re.findall(r"\d+|\D+", name)


def _layer(path: Path, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[Floats, Floats]:
    where = f"linear.weights: {path}{name and f': layer {name}'}"
    if "weight" not in arrays:
        raise UsageError(f"{where} has a bias and no weight")
    weight = np.atleast_2d(arrays["weight"])
    bias = np.atleast_1d(arrays.get("bias", np.zeros(len(weight))))
    if weight.ndim != 2 or bias.shape != (len(weight),):
        raise UsageError(
            f"{where} must have a weight (out, in) and a bias (out,), got {weight.shape} and {bias.shape}"
        )
    return weight, bias


def _chained(path: Path, layers: list[tuple[Floats, Floats]]) -> list[tuple[Floats, Floats]]:
    """Return the layers if each takes what the one before gives and the last gives one number."""
    if not layers:
        raise UsageError(f"linear.weights: {path} holds no arrays")
    for (before, _), (after, _) in itertools.pairwise(layers):
        if len(before) != after.shape[1]:
            raise UsageError(
                f"linear.weights: {path}: a layer that gives {len(before):,} numbers comes before one that takes "
                f"{after.shape[1]:,}"
            )
    if len(layers[-1][0]) != 1:
        raise UsageError(
            f"linear.weights: {path}: a head must give one number, this one gives {len(layers[-1][0]):,}; keep the row of "
            "the class you want"
        )
    return layers


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise UsageError(f"linear.weights: there is no file {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        from safetensors.numpy import load_file

        return dict(load_file(path))
    except Exception as error:  # numpy, zipfile or safetensors
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"linear.weights: {path} is no readable {path.suffix} file ({reason})") from error
