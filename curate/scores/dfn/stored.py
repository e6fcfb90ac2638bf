"""A trained filter as it lies in its folder: what it is, its arrays, and whether it fits the vectors of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError, UsageError
from curate.io import storage

__all__ = ["FACTS", "FILTER_VERSION", "MODEL", "WEIGHTS", "StoredFilter", "open_filter"]

FILTER_VERSION = 1
#: The file that says what a filter is; it is written last.
FACTS = "filter.json"
#: The arrays of a filter, and the open_clip model of one of kind full.
WEIGHTS, MODEL = "weights.npz", "open_clip_model.safetensors"


#: What `filter.json` says of every filter.
_NEEDED = ("kind", "identity", "files", "dim", "scale")


@dataclass(frozen=True)
class StoredFilter:
    """A filter in its folder.

    facts : what `filter.json` says: `kind` (adapter, head or full), `identity` (of settings, training set and weights),
    `space` (what embedded the vectors that it works on), `dim`, `scale`, `classes` (of a head).
    """

    path: Path
    facts: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Adapter, head or full."""
        return str(self.facts["kind"])

    @property
    def identity(self) -> str:
        """What changes when the filter is another one."""
        return str(self.facts["identity"])

    @cached_property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Its arrays by name."""
        with np.load(self.path / WEIGHTS, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def check_files(self, where: str) -> None:
        """Raise UsageError where its arrays or its model are not those that it was written with."""
        for name, known in self.facts["files"].items():
            path = self.path / name
            if not path.is_file() or storage.hash_file(path) != known:
                raise UsageError(f"{where}: {path} is damaged or from another filter; train it anew")

    def check_model(self, embed: Any, where: str) -> None:  # noqa: ANN401  (the settings `embed` of a recipe)
        """Raise UsageError where the recipe names another model than the one whose vectors the filter knows."""
        space = self.facts.get("space") or {}
        if self.kind == "full" or embed.own_vectors or space.get("model") is None:
            return
        if space["model"] != embed.model or _tag(space.get("pretrained")) != _tag(embed.pretrained):
            raise UsageError(
                f"{where}: the filter {self.path} is for vectors of {_named(space['model'], space.get('pretrained'))}, and "
                f"embed gives those of {_named(embed.model, embed.pretrained)}; train one on them (curate train-filter)"
            )

    def check_vectors(self, space: Mapping[str, Any] | None, dim: int, where: str) -> None:
        """Raise EmbeddingError unless vectors are as long as those it was trained on, and of the same weights."""
        if self.kind == "full":
            return
        if dim != self.facts["dim"]:
            raise EmbeddingError(
                f"{where}: the filter {self.path} is for vectors of {self.facts['dim']} numbers, the run has {dim}; "
                "train one on the vectors of this run"
            )
        ours, theirs = (self.facts.get("space") or {}).get("weights"), (space or {}).get("weights")
        if ours is not None and theirs is not None and ours != theirs:
            raise EmbeddingError(
                f"{where}: the filter {self.path} was trained on vectors of other weights of the same model; train it anew"
            )


def open_filter(path: str | Path, where: str) -> StoredFilter:
    """Return the filter in a folder. where : the setting, for messages. Raises UsageError where there is none."""
    folder = Path(path)
    try:
        facts = json.loads(storage.ensure_local(folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(
            f"{where} must be the folder of a trained filter (curate train-filter), got {str(path)!r}"
        ) from None
    if not isinstance(facts, dict) or facts.get("version") != FILTER_VERSION:
        raise UsageError(f"{where}: {folder / FACTS} was written by another version of curate; train it anew")
    if lacks := [name for name in _NEEDED if name not in facts]:
        raise UsageError(f"{where}: {folder / FACTS} is damaged: it has no {lacks[0]!r}; train it anew")
    return StoredFilter(folder, facts)


def _tag(pretrained: object) -> object:
    """Return the tag of weights; a file is known by its hash alone."""
    return "a file" if pretrained is not None and Path(str(pretrained)).suffix else pretrained


def _named(model: object, pretrained: object) -> str:
    return str(model) if pretrained is None else f"{model} ({pretrained})"
