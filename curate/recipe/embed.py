"""How samples become vectors."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from curate.recipe.types import Bytes
from curate.settings import Settings

__all__ = ["Embed"]

#: What a decoder may take unless the recipe says otherwise: an image of 100 million pixels fits with room to spare.
DECODE_MEMORY = 2 * 10**9


class Embed(Settings):
    """How samples become vectors: by a CLIP model, or by vectors that are already there.

    column : of the source, with image vectors; the arrays of clip-retrieval (`img_emb`) and DataComp (`l14_img`)
    are columns too. text_column : the vectors of captions beside them. files : `.npy`, `.npz`, `.pt` or
    Parquet, a row per source row. array : which array, tensor or column of these, where a file holds several.
    max_pixels, decode_memory : what one image may ask for; they decide about rows, so that `memory` and `workers` never do.
    decode : how JPEGs are decoded; pillow and turbo (auto, where it is installed) give the same pixels, draft others.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 256
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    max_pixels: Annotated[int, Field(ge=1)] = 100_000_000
    decode_memory: Annotated[Bytes, Field(ge=10**8)] = DECODE_MEMORY
    decode: Literal["auto", "pillow", "turbo", "draft"] = "auto"
    column: str | None = None
    text_column: str | None = None
    files: str | tuple[str, ...] | None = None
    array: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_way(cls, values: object) -> object:
        if isinstance(values, Mapping):
            ways = [key for key in ("model", "column", "files") if values.get(key) is not None]
            if len(ways) > 1:
                raise ValueError(f"takes one of model, column and files, got {' and '.join(ways)}")
            if values.get("text_column") is not None and ways != ["column"]:
                raise ValueError("takes text_column, the vectors of captions, beside column only")
            if values.get("array") is not None and ways != ["files"]:
                raise ValueError("takes array, the name of one in a file of several, beside files only")
            if not ways or (ways == ["model"] and values["model"] == "ViT-B-32"):
                return {"pretrained": "laion2b_s34b_b79k"} | dict(values)
        return values

    @model_serializer(mode="wrap")
    def _one_way_out(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the model where none runs, so that what is written can be read again."""
        values: dict[str, Any] = handler(self)
        without: tuple[str, ...] = ("model", "pretrained") if self.own_vectors else ()
        without += ("array",) if self.array is None else ()
        without += (
            ("decode",) if self.decode == "auto" else ()
        )  # so that what was made before has the name it had
        return {name: value for name, value in values.items() if name not in without}

    @property
    def decode_limits(self) -> list[int]:
        """What one image may ask for, as fingerprints have it: `decode_memory` only where it is not the default."""
        return [self.max_pixels, *([self.decode_memory] if self.decode_memory != DECODE_MEMORY else [])]

    @property
    def own_vectors(self) -> bool:
        """Whether the vectors are given and no model runs."""
        return self.column is not None or self.files is not None
