"""The kept samples whose images are files on this machine: where each file is, and its caption."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from curate.errors import UsageError
from curate.execution.context import Context, Part
from curate.io import storage
from curate.sources import references
from curate.sources.registry import check_unchanged, format_of

__all__ = ["ImageFile", "KeptImages"]

BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class ImageFile:
    """A kept sample. ref : the path of its image as the source has it. path : the file, as it is named there."""

    ref: str
    path: Path
    caption: str | None


class KeptImages:
    """Reads which files the kept images of a run are; nothing of the images themselves.

    missing : how many of the samples read so far have no file. example : the path of the first.
    """

    def __init__(self, context: Context, form: str) -> None:
        self.missing = 0
        self.example: str | None = None
        self._context = context
        self._form = form

    def of(self, part: Part) -> Iterator[ImageFile]:
        """Yield the samples of a part, in the order of the source. Raises UsageError where images are no files."""
        run, shard = self._context.run, part.shard
        decisions = pl.DataFrame(storage.read_table(run.part(run.decisions, part.name), ["row", "keep"]))
        kept = set(decisions.filter("keep")["row"].to_list())
        if part.columns.image is None:
            raise self._refusal(part, "the run has no image column")
        form = format_of(shard.format)
        prefix, beside = form.images_beside(shard)
        reader = form.reader(replace(part.columns.captions_alone(), image=part.columns.image), True)
        since = check_unchanged(shard)
        for rows in reader.batches(
            shard, images=False, batch_bytes=BATCH_BYTES, start=part.start, stop=part.stop
        ):
            for place, row in enumerate(rows.row.tolist()):
                if row not in kept:
                    continue
                ref = rows.image_ref[place]
                if rows.image[place] is not None:
                    raise self._refusal(part, f"the image of row {row} stands in the shard itself")
                if ref and "://" in ref and not ref.lower().startswith(("file://", "local://")):
                    raise self._refusal(part, f"the image of row {row} is at {ref}, not on this machine")
                path = references.local_file(ref.removeprefix(prefix), beside, shard.access) if ref else None
                if ref is None or path is None:
                    self.missing += 1
                    self.example = self.example or ref
                else:
                    yield ImageFile(ref, path, rows.caption[place])
        check_unchanged(shard, since)

    def _refusal(self, part: Part, why: str) -> UsageError:
        return UsageError(
            f"--format {self._form} is for images that are files: {part.shard.url}: {why}; use --format webdataset or "
            "parquet"
        )
