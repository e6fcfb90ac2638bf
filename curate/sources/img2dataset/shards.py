"""Shards of img2dataset in Parquet and in tars, each as a `base.Reader`, and what their Parquet file tells."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError
from curate.io import filesystem
from curate.io.filesystem import Entry, StorageOptions
from curate.sources.base import Columns, Rows, Shard
from curate.sources.parquet import ParquetReader
from curate.sources.tar import roles
from curate.sources.tar.webdataset import WebDatasetReader

__all__ = ["InlineReader", "TarReader", "Told", "listed", "tell", "told_by"]

SUCCESS = "success"
SMALL_BATCH = 4 << 20
BLOCK_ROWS = 1024
KEPT = 4


@dataclass(frozen=True)
class Told:
    """What the Parquet file says of one address; verdict : (outcome, reason)."""

    key: str | None
    url: str | None
    caption: str | None
    verdict: tuple[str, str | None]

    @property
    def ref(self) -> str | None:
        """What stands for the image in the identity of a row that has none."""
        return self.url or self.key


def told_by(shard: Shard) -> Shard | None:
    """Return the Parquet file of a shard as a shard of its own; None if there is none."""
    url = f"{shard.url.rstrip('/').removesuffix('.tar').removesuffix('.parquet')}.parquet"
    with filesystem.explained(url, shard.storage_options):
        fs, path = filesystem.filesystem(url, shard.storage_options)
        entry = filesystem.lookup(fs, [path]).get(path)
    if entry is None:
        return None
    return replace(shard, url=url, version=entry.version, size=entry.size, format="parquet", rules=1)


def tell(told: Shard, start: int = 0, stop: int | None = None) -> Iterator[Told]:
    """Yield what the Parquet file of a shard says of rows [start, stop); images are not read.

    Raises SourceError where it has no column `key` or `status`.
    """
    names = ParquetReader(Columns()).schema(told).names
    for needed in ("key", "status"):
        if needed not in names:
            raise SourceError(
                f"{told.url}: no column {needed!r}, which img2dataset writes; is it something else?"
            )
    # Any three columns of text can be read as image, caption and label: a path is not followed here.
    have = {name: name if name in names else None for name in ("error_message", "url", "caption")}
    states = Columns(image="key", caption="status", label=have["error_message"])
    extras = Columns(image=have["url"], caption=have["caption"])
    pairs = zip(_texts(told, states, start, stop), _texts(told, extras, start, stop), strict=True)
    for (key, status, error), (url, caption, _) in pairs:
        if status == SUCCESS:
            verdict: tuple[str, str | None] = ("ok", None)
        else:
            verdict = ("failed_download", error or f"the status is {status or 'null'}")
        yield Told(key, url, caption, verdict)


def _texts(told: Shard, columns: Columns, start: int, stop: int | None) -> Iterator[tuple[str | None, ...]]:
    inner = ParquetReader(columns).batches(
        told, images=False, batch_bytes=SMALL_BATCH, start=start, stop=stop
    )
    for rows in inner:
        yield from zip(rows.key, rows.caption, rows.label, strict=True)


def listed(url: str, options: StorageOptions) -> dict[str, Entry]:
    """Return the files in the folder of a shard by name."""
    with filesystem.explained(url, options):
        fs, path = filesystem.filesystem(url, options)
        return {
            name: one for name, one in filesystem.listing(fs, path.rstrip("/")).items() if not one.is_folder
        }


@dataclass(frozen=True)
class InlineReader:
    """Shards in Parquet with the images in a column; see `base.Reader`."""

    columns: Columns

    def count(self, shard: Shard) -> int:
        """Return the number of addresses."""
        return ParquetReader(self.columns).count(shard)

    def schema(self, shard: Shard) -> pa.Schema:
        """Return the columns as they stand."""
        return ParquetReader(self.columns).schema(shard)

    def vector_length(self, shard: Shard) -> int | None:
        """Return None: there are no vectors."""
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        told = tell(shard, start, stop)
        inner = ParquetReader(self.columns)
        for rows in inner.batches(shard, images=images, batch_bytes=batch_bytes, start=start, stop=stop):
            yield _judged(rows, list(islice(told, len(rows))))

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions), all columns or those named, as they stand."""
        return ParquetReader(self.columns).read_rows(shard, rows, batch_bytes=batch_bytes, columns=columns)


def _judged(rows: Rows, told: Sequence[Told]) -> Rows:
    """Return rows with the verdicts of img2dataset, where it has not got the image."""
    refs, outcomes, reasons = list(rows.image_ref), list(rows.outcome), list(rows.reason)
    images = list(rows.image)
    for place, one in enumerate(told):
        if one.verdict[0] != "ok":
            images[place], refs[place] = None, one.ref
            outcomes[place], reasons[place] = one.verdict
        elif images[place] is None and refs[place] is None:
            refs[place] = one.ref
    keys = [one.key for one in told]
    return replace(rows, key=keys, image=images, image_ref=refs, outcome=outcomes, reason=reasons)


#: Of the last shards: positions in their Parquet file of what their tar does not hold.
_ABSENT: OrderedDict[tuple[str, str, int], npt.NDArray[np.int64]] = OrderedDict()


@dataclass(frozen=True)
class TarReader:
    """Shards in tars: the samples of the tar, then what the Parquet file tells of others; see `base.Reader`."""

    columns: Columns

    def count(self, shard: Shard) -> int:
        """Return the number of samples in the tar and of addresses that are not in it."""
        return self._tar.count(shard) + len(self._absent(shard))

    def schema(self, shard: Shard) -> pa.Schema:
        """Return a column per kind of member."""
        return self._tar.schema(shard)

    def vector_length(self, shard: Shard) -> int | None:
        """Return None: there are no vectors."""
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row."""
        cut = self._tar.count(shard)
        stop = self.count(shard) if stop is None else stop
        if start < cut:
            yield from self._tar.batches(
                shard, images=images, batch_bytes=batch_bytes, start=start, stop=min(stop, cut)
            )
        first = max(start, cut)
        told = self._told(shard, self._absent(shard)[first - cut : stop - cut]) if stop > first else iter(())
        while some := list(islice(told, BLOCK_ROWS)):
            yield self._rows(shard, some, first)
            first += len(some)

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions); those not in the tar have a key and a caption at most."""
        cut = self._tar.count(shard)
        split = int(np.searchsorted(rows, cut))
        if split:
            yield from self._tar.read_rows(shard, rows[:split], batch_bytes=batch_bytes, columns=columns)
        told = self._told(shard, self._absent(shard)[rows[split:] - cut])
        schema = self.schema(shard)
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        while some := list(islice(told, BLOCK_ROWS)):
            known = {roles.KEY: [one.key for one in some], "txt": [one.caption for one in some]}
            columns = [pa.array(known.get(one.name, [None] * len(some)), one.type) for one in schema]
            yield pa.table(columns, schema=schema)

    @property
    def _tar(self) -> WebDatasetReader:
        return WebDatasetReader(self.columns)

    def _rows(self, shard: Shard, told: Sequence[Told], first: int) -> Rows:
        lost = ("missing_image", "the tar has no sample with this key, though the download succeeded")
        verdicts = [lost if one.verdict[0] == "ok" else one.verdict for one in told]
        uids = [f"{shard.name}:{one.key}" for one in told] if self.columns.uid is not None else None
        if self.columns.uid == roles.KEY:
            uids = [str(one.key) for one in told]
        nothing = [None] * len(told)
        return Rows(
            row=np.arange(first, first + len(told), dtype=np.int64),
            uid=uids,
            key=[one.key for one in told],
            image=nothing,
            image_ref=[one.ref for one in told],
            caption=[one.caption for one in told] if self.columns.caption else nothing,
            label=nothing,
            outcome=[outcome for outcome, _ in verdicts],
            reason=[reason for _, reason in verdicts],
        )

    def _told(self, shard: Shard, positions: npt.NDArray[np.int64]) -> Iterator[Told]:
        """Yield what the Parquet file says of the addresses at these (ascending) positions."""
        told = told_by(shard) if len(positions) else None
        if told is None:
            return
        wanted, first = set(positions.tolist()), int(positions[0])
        for position, one in enumerate(tell(told, first, int(positions[-1]) + 1), first):
            if position in wanted:
                yield one

    def _absent(self, shard: Shard) -> npt.NDArray[np.int64]:
        """Return the positions in the Parquet file of addresses that are not in the tar."""
        place = (shard.url, shard.version, shard.rules)
        if place not in _ABSENT:
            told = told_by(shard)
            keys: set[str | None] = set()
            for rows in self._tar.batches(shard, images=False, batch_bytes=SMALL_BATCH) if told else ():
                keys.update(rows.key)
            absent = [at for at, one in enumerate(tell(told)) if one.key not in keys] if told else []
            _ABSENT[place] = np.array(absent, np.int64)
            while len(_ABSENT) > KEPT:
                _ABSENT.popitem(last=False)
        return _ABSENT[place]
