"""Settings of a source: where the samples are, and which columns hold what."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from curate.io.secrets import HIDDEN, redacted, with_password
from curate.settings import Settings, none_word

__all__ = ["Source", "StorageOptions"]


def _without_hidden(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a file system; refuse what was redacted before."""
    if HIDDEN in str(options):
        raise ValueError(f"hold {HIDDEN} where a secret was; give it as ${{NAME}}, or run the first recipe")
    return options


StorageOptions = Annotated[dict[str, Any], AfterValidator(_without_hidden), PlainSerializer(redacted)]
Column = Annotated[str | None, BeforeValidator(none_word)]


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
    allow: tuple[Literal["outside", "links", "url", "private"], ...] = ()
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
