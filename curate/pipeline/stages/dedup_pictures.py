"""Small pictures of the rows that vectors propose as duplicates: read once more, part by part, and kept as scratch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.deduplication.pictures import MIN_CORRELATION, SIDE, best_correlations, grey
from curate.embedding.decode import Preprocess
from curate.execution.context import Context, Part, reuse_or_remove, usable
from curate.execution.exchange import Exchange
from curate.io import storage
from curate.pipeline.stages.row_images import RowImages, decoded

__all__ = ["PICTURE", "Confirming", "make_pictures", "pictures_in"]

#: The small picture of a row, null where there is none.
PICTURE = pa.field("picture", pa.binary(SIDE * SIDE))

_KIND = pa.schema([("position", pa.int32()), PICTURE])
_WHOLE = Preprocess((SIDE, SIDE), resize_mode="squash", interpolation="bilinear")


def make_pictures(
    context: Context, involved: Sequence[Path], folder: Path, fingerprint: str
) -> tuple[tuple[Path, ...], int]:
    """Write the small pictures of the rows in `involved` (files of an exchange: part, position), a file for each part.

    Returns the files, in the order of the parts, and how many images could not be had.
    """
    files, missing = [], 0
    context.progress("dedup", 0, len(context.parts), "pictures of parts")
    for done, part in enumerate(context.parts):
        path = folder / f"pictures-{part.name}.arrow"
        positions = np.sort(Exchange.back(involved, part.index)["position"].to_numpy())
        if not reuse_or_remove(path, fingerprint):
            _write(context, part, positions, path, fingerprint)
        missing += len(positions) - len(pictures_in(path))
        files.append(path)
        context.progress("dedup", done + 1, len(context.parts), "pictures of parts")
    return tuple(files), missing


def _write(
    context: Context, part: Part, positions: npt.NDArray[np.int32], path: Path, fingerprint: str
) -> None:
    """Write the pictures of rows of one part (positions among its usable samples) that have an image."""
    row = usable(context.run, part.name)["row"].gather(positions).to_numpy()
    source = next(one for one in context.recipe.source if one.name == part.shard.source)
    order = np.argsort(row)
    place = dict(zip(row[order].tolist(), positions[order].tolist(), strict=True))
    found: dict[int, bytes] = {}
    if len(row):
        wanted = RowImages(part, source, row[order], "dedup.confirm: thumbnail")
        for _, pixels in decoded(context, [wanted], _WHOLE):
            found |= {place[at]: grey(array).tobytes() for at, array in pixels.items()}
    table = pa.table(
        [pa.array(list(found), pa.int32()), pa.array(list(found.values()), PICTURE.type)], schema=_KIND
    )
    batches = table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], schema=_KIND)]
    storage.write_ipc(path, batches, _KIND, fingerprint, scratch=True)


def pictures_in(path: Path) -> pl.DataFrame:
    """Return position and picture of the rows of a part that have one."""
    return pl.DataFrame(
        pa.Table.from_batches([storage.map_ipc(path).get_batch(0)]).replace_schema_metadata(None)
    )


class Confirming:
    """Says whether a row and some others are copies by their small pictures; rows without one are not."""

    def __init__(self, pictures: pl.Series) -> None:
        known = pictures.is_not_null().to_numpy()
        self._place = np.where(known, np.cumsum(known) - 1, -1)
        packed = b"".join(pictures.drop_nulls().to_list())
        self._pictures = np.frombuffer(packed, np.uint8).reshape(-1, SIDE * SIDE)

    def __call__(self, row: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which of the pairs are copies, (m,)."""
        places = self._place[others]
        copies = places >= 0
        if self._place[row] < 0 or not copies.any():
            return np.zeros(len(others), np.bool_)
        found = best_correlations(self._pictures[self._place[row]], self._pictures[places[copies]])
        copies[copies] = found > MIN_CORRELATION
        return np.asarray(copies)
