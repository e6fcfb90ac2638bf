"""What every source format offers: shards, and batches of the rows in them.

A source module has two things: ``find(spec) -> list[Shard]`` (in name order, names unique) and a
reader with the methods of `Reader`. Readers never decode images and never follow anything a row says
without checking it; they say of each row whether it can be used (`outcome`) and why not (`reason`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.sources.access import PathAccess
from curate.sources.settings import Take

__all__ = ["RULES", "Columns", "Reader", "RowReader", "Rows", "Shard"]

#: From 2 on, a README in a tar is no sample, `.heic` and others are images of a folder, and `year=2024/` is a column.
RULES = 2


@dataclass(frozen=True)
class Columns:
    """Which column holds what; None where the source has no such column.

    vector : a column of ready-made embeddings (lists of float16, float32 or float64), and vector_dim the
    length they must all have (None: that of the first one in each shard). text_vector : such a column for
    the captions, of the same length. caption_more : further columns of captions; caption_take : which of several
    captions a row has (`captions.taken`).
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    uid: str | None = None
    vector: str | None = None
    vector_dim: int | None = None
    text_vector: str | None = None
    caption_more: tuple[str, ...] = ()
    caption_take: Take = "first"

    @property
    def captions(self) -> tuple[str, ...]:
        """The columns of captions, in order."""
        return () if self.caption is None else (self.caption, *self.caption_more)

    @property
    def named(self) -> list[str]:
        """All columns that are read, each once."""
        roles = (self.image, *self.captions, self.label, self.uid, self.vector, self.text_vector)
        return list(dict.fromkeys(name for name in roles if name is not None))

    def captions_alone(self) -> "Columns":
        """Return the columns of captions and the rule for several, without any other column."""
        return Columns(caption=self.caption, caption_more=self.caption_more, caption_take=self.caption_take)

    def identity(self) -> dict[str, object]:
        """Return what goes into fingerprints: fields that came later only where they are used."""
        later: dict[str, tuple[object, ...]] = {"caption_more": ((), []), "caption_take": ("first",)}
        return {name: value for name, value in vars(self).items() if value not in later.get(name, ())}


@dataclass(frozen=True)
class Shard:
    """One input file.

    name : path below the source's root, unique in a run; the order of names is the order of shards.
    url : where to open it. version : size and time (or ETag), the fast sign of a change. format : the name
    of its format (`registry.FORMATS`). content, changed : the fingerprint of what it held when it was hashed, and
    when its files were last changed then (`filesystem.changed_at`); empty where it was not hashed. access : where
    paths in its rows may lead; a setting, no part of its content. rules : which rules say what its rows and columns
    are; those of a run made before stay as they were, so that its rows are still found by position (`RULES` are
    those of today).
    """

    name: str
    url: str
    split: str
    size: int
    version: str
    source: str = "source"
    storage_options: Mapping[str, object] = field(default_factory=dict)
    format: str = "parquet"
    content: str = ""
    changed: str = ""
    access: PathAccess = field(default_factory=PathAccess)
    rules: int = 1


@dataclass(frozen=True)
class Rows:
    """A batch of rows of one shard; all sequences have one entry per row.

    row : position in the shard. image : encoded bytes, or None (none given, or unusable).
    image_ref : what stands for the image in the row's identity where there are no inline bytes (the
    path or URL as written), else None. label : the label as text. outcome : a key of
    `schema.OUTCOMES`; reason says why where it is not ok.
    vector : (n, d) float32, not normalised, rows of NaN where unusable; None without a vector column.
    text_vector : the same for captions, rows of NaN also where there is none.
    notes : what was chosen or guessed in reading each row (`sources.captions`); None where nothing was.
    """

    row: npt.NDArray[np.int64]
    uid: Sequence[str] | None
    key: Sequence[str | None]
    image: Sequence[bytes | None]
    image_ref: Sequence[str | None]
    caption: Sequence[str | None]
    label: Sequence[str | None]
    outcome: Sequence[str]
    reason: Sequence[str | None]
    vector: npt.NDArray[np.float32] | None = None
    text_vector: npt.NDArray[np.float32] | None = None
    notes: Sequence[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.row)

    def slice(self, start: int, stop: int) -> "Rows":
        """Return the rows from `start` to `stop`."""
        columns = {one.name: getattr(self, one.name) for one in fields(self)}
        cut: dict[str, Any] = {name: v if v is None else v[start:stop] for name, v in columns.items()}
        return replace(self, **cut)


class RowReader(Protocol):
    """How whole rows of a shard are read: what writing them again needs."""

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the Arrow schema of the shard as it stands, with its metadata."""

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with all columns, types and bytes as they stand.

        columns : the names of those to read, in this order; others are not read where the format allows it.
        """


class Reader(RowReader, Protocol):
    """How the samples of one shard are read."""

    def count(self, shard: Shard) -> int:
        """Return the number of rows; raises SourceError if the shard cannot be read."""

    def vector_length(self, shard: Shard) -> int | None:
        """Return the length of the first vector in the vector column; None if there is none."""

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order (all by default), in batches of at most about `batch_bytes`.

        images : False where paths need not be followed (identity needs only what stands in the
        row); inline bytes are read either way.
        """
