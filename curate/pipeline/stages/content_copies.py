"""Which usable samples have the same content as an earlier one, over all shards, whatever their images are called.

Where a row names its image by a path, its uid stands for the path. What the image holds is known once it was read for
its vector: `content_hash` in 0_samples. Memory holds one bucket of rows at a time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from curate.execution.context import Context, Part, usable
from curate.execution.exchange import Exchange, Grouped, bucket_of
from curate.filtering import uid_lists as lists
from curate.hashing import digest
from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = ["ContentCopies", "find"]

#: Bytes of one row while copies are searched: a hash, a uid, its place, and what sorting needs.
ROW_BYTES = 400

FOUND = pa.schema([("part", pa.int32()), ("position", pa.int32()), ("same_content_as", pa.string())])


@dataclass(frozen=True)
class ContentCopies:
    """What was found: files with one batch per part; none where nothing was to be found."""

    files: tuple[Path, ...]

    def of(self, part: int) -> Mapping[int, str]:
        """Return the uid of the first row of equal content, by position among the usable samples of a part (its index)."""
        if not self.files:
            return {}
        found = Exchange.back(self.files, part)
        return dict(zip(found["position"].to_list(), found["same_content_as"].to_list(), strict=True))


@dataclass(frozen=True)
class _Rows:
    """The usable samples of one part, and how they are compared."""

    run: RunFolder
    part: Part
    lists: lists.Lists
    captioned: bool


def find(context: Context, listed: lists.Lists, folder: Path, fingerprint: str) -> ContentCopies:
    """Find the samples that are copies of an earlier one: equal content, caption and label; or content alone.

    An excluded row stands for no other. A pinned row is no copy, and the first one stands for all.
    folder : of scratch files, which the caller removes.
    """
    exact = context.recipe.dedup.exact
    alike = context.facts(context.run.embeddings).get("named_images", 0)
    if not exact or not (alike or exact == "image"):
        return ContentCopies(())
    exchange = Exchange.by_memory(
        context, "filter", folder, storage.fingerprint("content_copies", fingerprint),
        rows=sum(part.rows for part in context.parts), row_bytes=ROW_BYTES,
    )  # fmt: skip
    files = exchange.found()
    if files is None:
        captioned = exact != "image"
        items = {part.name: _Rows(context.run, part, listed, captioned) for part in context.parts}
        files = exchange.bucket(_find, exchange.spread(_rows_of_part, items, "content"))
    return ContentCopies(files)


def _rows_of_part(item: _Rows, n_buckets: int) -> Grouped:
    """Return the rows of a part that can be compared, in buckets by what is compared."""
    frame = usable(item.run, item.part.name).with_row_index("position")
    uids: list[str] = frame["uid"].to_list()
    pinned = lists.listed(item.lists.pin, uids)
    frame = frame.with_columns(
        pl.Series("pinned", pinned), pl.Series("out", lists.left_out(item.lists, uids) & ~pinned)
    )
    image = pl.col("content_hash") if item.captioned else pl.coalesce("content_hash", "image_hash")
    frame = frame.with_columns(image=image).filter(pl.col("image").is_not_null() & ~pl.col("out"))
    compared = ("image", "caption_hash", "label") if item.captioned else ("image",)
    content = [digest(*row) for row in frame.select(compared).iter_rows()]
    table = frame.select(
        pl.Series("content", content, pl.String), "uid", "pinned", pl.col("position").cast(pl.Int32),
        part=pl.lit(item.part.index, pl.Int32),
    ).to_arrow()  # fmt: skip
    return Grouped.of(bucket_of(content, n_buckets), table)


def _find(table: pa.Table) -> pa.Table:
    """Return the rows of a bucket that are copies, each with the first of its content."""
    rows = pl.DataFrame(table).filter(pl.col("content").is_duplicated())
    rows = rows.sort(~pl.col("pinned"), "part", "position")
    rows = rows.with_columns(same_content_as=pl.col("uid").first().over("content"))
    copies = rows.filter(~pl.col("pinned") & (pl.col("uid") != pl.col("same_content_as")))
    return copies.sort("part", "position").select(FOUND.names).to_arrow().cast(FOUND)
