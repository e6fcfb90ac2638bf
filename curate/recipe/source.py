"""What goes in: where the samples are, and how they become vectors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from curate.io.secrets import with_password
from curate.recipe.types import Column, Settings, StorageOptions

__all__ = ["Embed", "Source"]


class Source(Settings):
    """Where the samples are. A column may be `auto` (found by name and type), a name, or null."""

    path: str | tuple[str, ...]
    name: str = "source"
    format: Literal[
        "auto", "parquet", "jsonl", "csv", "folder", "img2dataset", "webdataset", "clip_retrieval", "datacomp"
    ] = "auto"
    image: Column = "auto"
    caption: Column = "auto"
    label: Column = "auto"
    uid: Column = None
    allow: tuple[Literal["url"], ...] = ()
    unfinished: Literal["refuse", "skip"] = "refuse"
    limit: Annotated[int, Field(ge=1)] | None = None
    storage_options: StorageOptions = Field(default_factory=dict, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: object) -> object:
        return {"path": values} if isinstance(values, str) else values

    @field_validator("path")
    @classmethod
    def _some_path(cls, path: str | tuple[str, ...]) -> str | tuple[str, ...]:
        texts = [path] if isinstance(path, str) else path
        if not texts or not all(texts):
            raise ValueError("must not be empty")
        if any(map(with_password, texts)):
            raise ValueError("must not hold a password; give it in storage_options, as ${NAME}")
        return path

    @property
    def patterns(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


class Embed(Settings):
    """How samples become vectors: by a CLIP model, or by vectors that are already there.

    column : of the source, with image vectors; the arrays of clip-retrieval (`img_emb`) and DataComp (`l14_img`)
    are columns too. text_column : the vectors of captions beside them. files : `.npy`, a row per source row.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 256
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    column: str | None = None
    text_column: str | None = None
    files: str | tuple[str, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, values: object) -> object:
        if isinstance(values, Mapping):
            ways = [key for key in ("model", "column", "files") if values.get(key) is not None]
            if len(ways) > 1:
                raise ValueError(f"takes one of model, column and files, got {' and '.join(ways)}")
            if values.get("text_column") is not None and ways != ["column"]:
                raise ValueError("takes text_column, the vectors of captions, beside column only")
            if not ways or (ways == ["model"] and values["model"] == "ViT-B-32"):
                return {"pretrained": "laion2b_s34b_b79k"} | dict(values)
        return values

    @model_serializer(mode="wrap")
    def _one_way_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the model where none runs, so that what is written can be read again."""
        values: dict[str, Any] = handler(self)
        without = ("model", "pretrained") if self.own_vectors else ()
        return {name: value for name, value in values.items() if name not in without}

    @property
    def own_vectors(self) -> bool:
        """Whether the vectors are given and no model runs."""
        return self.column is not None or self.files is not None
