"""Settings of a source: where the samples are, and which columns hold what."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from curate.io.secrets import HIDDEN, NO_PASSWORD, redacted, with_password
from curate.settings import Settings, listed, none_word
from curate.sources.access import PLACE, PathAccess

__all__ = ["Captions", "Source", "StorageOptions", "Take"]

#: Which of several captions a row has.
Take = Literal["first", "longest", "join"]


def _without_hidden(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a file system; refuse what was redacted before."""
    if HIDDEN in str(options):
        raise ValueError(f"hold {HIDDEN} where a secret was; give it as ${{NAME}}, or run the first recipe")
    return options


StorageOptions = Annotated[dict[str, Any], AfterValidator(_without_hidden), PlainSerializer(redacted)]
Column = Annotated[str | None, BeforeValidator(none_word)]


class Captions(Settings):
    """Which caption a row has where several are given: the first, the longest, or all joined by a space.

    of : the columns (in a tar: members) that hold them, in order; by default the one found by name and type.
    """

    take: Take = "first"
    of: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)] = ()


class Source(Settings):
    """Where the samples are. A column may be `auto` (found by name and type), a name, or null."""

    path: str | tuple[str, ...]
    name: str = "source"
    format: Literal[
        "auto",
        "parquet",
        "jsonl",
        "csv",
        "json",
        "folder",
        "img2dataset",
        "webdataset",
        "clip_retrieval",
        "datacomp",
        "arrow",
        "orc",
        "delta",
        "iceberg",
    ] = "auto"
    image: Column = "auto"
    caption: Captions | Column = "auto"
    label: Column = "auto"
    uid: Column = None
    root: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    template: str | None = None
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
            raise ValueError(NO_PASSWORD)
        return path

    @field_validator("root")
    @classmethod
    def _some_root(cls, root: tuple[str, ...]) -> tuple[str, ...]:
        if not all(root):
            raise ValueError("must not be empty")
        if any(map(with_password, root)):
            raise ValueError(NO_PASSWORD)
        return root

    @field_validator("template")
    @classmethod
    def _fills(cls, template: str | None) -> str | None:
        if template is not None and (
            len(PLACE.findall(template)) != 1 or set("{}") & set(PLACE.sub("", template))
        ):
            raise ValueError(
                f"must hold {{}} once, where the value stands ({{:012}} fills it with zeros), got {template!r}"
            )
        return template

    @property
    def access(self) -> PathAccess:
        """Where paths in the rows may lead."""
        return PathAccess(self.root, "outside" in self.allow, "links" in self.allow, self.template)

    @property
    def patterns(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)
