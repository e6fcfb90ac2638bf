"""The rows of a run as judges need them: who they are, their labels, vectors and images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.errors import RunError, UsageError
from curate.execution.context import Context, usable
from curate.filtering.source_columns import SourceColumns, as_frame, find_columns
from curate.io import storage
from curate.linalg import load_unit
from curate.schema import PASSING
from curate.scores.base import Sources, embedding_parts, require_memory
from curate.scores.pixels.parts import decoded_images

__all__ = ["Rows", "read_images", "read_rows", "read_vectors", "rows_of_split"]

Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]
Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rows:
    """The n rows of a run that have vectors, copies once, in the order of its parts.

    labels : (n,) places in `names`, -1 without a label. captioned : which have the vector of a caption. splits : of the
    shard that a row is in. pinned : those kept in any case. edge : the median of the longer sides of their images, None
    where sizes are not known.
    """

    uids: list[str]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    captioned: Mask
    splits: npt.NDArray[np.object_]
    pinned: Mask
    edge: float | None

    def __len__(self) -> int:
        return len(self.uids)


def read_rows(context: Context) -> Rows:
    """Return the rows of a run that is decided."""
    run = context.run
    frames = []
    for part in context.parts:
        frame = usable(run, part.name).select("uid", "label", "split", "width", "height")
        pinned = storage.read_table(run.part(run.scores("filter"), part.name), ["pinned"])
        frames.append(frame.hstack(pl.DataFrame(pinned)))
    rows = pl.concat(frames)
    names = sorted(rows["label"].drop_nulls().unique().to_list())
    place = {name: code for code, name in enumerate(names)}
    labels = [-1 if name is None else place[name] for name in rows["label"].to_list()]
    edge = rows.select(pl.max_horizontal("width", "height").median()).item()
    captioned = [np.zeros(0, np.bool_)]
    for embedded in embedding_parts(context):
        if embedded.has_text:
            captioned += [embedded.present("text", batch) for batch in range(embedded.batches)]
        else:
            captioned.append(np.zeros(len(embedded), np.bool_))
    return Rows(
        rows["uid"].to_list(), np.array(labels, np.int64), tuple(names), np.concatenate(captioned),
        rows["split"].to_numpy().astype(object), rows["pinned"].to_numpy().astype(np.bool_), edge,
    )  # fmt: skip


def read_vectors(context: Context, column: str) -> Vectors:
    """Return the unit vectors of all rows, (n, d): `image`, or `text` (zero where a row has no caption)."""
    parts = embedding_parts(context)
    dim = parts[0].dim if parts else 0
    require_memory(context, "evaluate", 2 * sum(map(len, parts)), 4 * dim)
    blocks: list[Vectors] = [np.zeros((0, dim), np.float32)]
    for part in parts:
        for index in range(part.batches):
            half = part.half(column, index)
            unit = np.zeros(half.shape, np.float32)
            there = part.present(column, index)
            unit[there] = load_unit(half[there])
            blocks.append(unit)
    return np.concatenate(blocks)


def rows_of_split(context: Context, rows: Rows, split: str) -> Mask:
    """Return which rows are in a split, (n,): by the files they are in, else by a column of the source.

    split : a name, such as ``test``, which is looked for among the splits of the files, then in the column `split`; or
    ``COLUMN=VALUE``. Raises UsageError where no usable row is in it.
    """
    column, equals, value = split.partition("=")
    if not equals:
        found = np.asarray(rows.splits == split, np.bool_)
        if found.any():
            return found
        column, value = "split", split
    there = sorted(set(rows.splits.tolist()))
    values = _source_column(context, column)
    if values is None:
        more = (
            f"no column {column!r}"
            if equals
            else f"the files of this run are of the split {', '.join(there)}, and there is no column 'split'"
        )
        raise UsageError(f"--split {split}: {more}; name another, or COLUMN=VALUE, or take --holdout 10%")
    found = np.array([one == value for one in values], np.bool_)
    if not found.any():
        some = ", ".join(sorted({one for one in values if one is not None})[:10]) or "no value at all"
        raise UsageError(
            f"--split {split}: no usable row has {value!r} in the column {column!r}; it has {some}"
        )
    return found


def _source_column(context: Context, column: str) -> list[str | None] | None:
    """Return a column of the source as text, for all rows; None where no shard has it."""
    schema = find_columns((part.shard for part in context.parts), [column], ())
    if column not in schema.names:
        return None
    types = as_frame(schema.empty_table().select([column])).schema
    batch = min(64_000_000, context.task_memory // 4)
    values: list[str | None] = []
    for part in context.parts:
        frame = usable(context.run, part.name).select("row")
        if frame.is_empty():
            continue
        for block in SourceColumns(part.shard, types, batch).beside(frame):
            values += block[column].cast(pl.String).to_list()
    return values


def read_images(context: Context, wanted: Mask, size: int, sources: Sources) -> tuple[Images, Mask]:
    """Return the images of some rows at `size` x `size`, (m, colours, size, size), and which of them there are.

    One colour where all images are grey. Raises RunError for what the machine could not decode in time.
    """
    n = int(wanted.sum())
    require_memory(context, "evaluate: images", 2 * n, 3 * size * size)
    images, decoded = np.zeros((n, size, size, 3), np.uint8), np.zeros(n, np.bool_)
    for place, row in enumerate(decoded_images(context, wanted, size, sources, stage="images")):
        if row.outcome in PASSING:
            raise RunError(f"evaluate: image {place:,} of {n:,}: {row.reason}; run again")
        if row.array is not None:
            images[place], decoded[place] = row.array, True
    grey = all(bool((images[..., 0] == images[..., other]).all()) for other in (1, 2))
    colours = images[..., :1] if grey else images
    return np.ascontiguousarray(colours.transpose(0, 3, 1, 2)), decoded
