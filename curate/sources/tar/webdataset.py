"""Read samples from WebDataset tars: a row per key, a column per suffix (see `samples` and `roles`)."""

import logging
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.errors import SourceError
from curate.io.filesystem import StorageOptions
from curate.io.found import passed_over
from curate.sources.base import RULES, Columns, Rows, Shard
from curate.sources.format import Format, find_files
from curate.sources.tar import roles
from curate.sources.tar.roles import IMAGE_KEY, KEY, is_text
from curate.sources.tar.samples import EXAMPLES, HIDDEN, IMAGES, STRAY, Ignored, Sample, samples

__all__ = ["FORMAT", "WebDatasetReader", "find"]

EXTENSIONS = (".tar", ".tar.gz", ".tgz")
MAX_ROWS = 1024
#: How the image among several is called, before its suffix.
IMAGE_NAMES = ("image", "img", "picture", "photo")

log = logging.getLogger(__name__)


def find(
    path: str | Sequence[str],
    *,
    storage_options: StorageOptions = None,
    source: str = "source",
    prefix: str = "",
) -> list[Shard]:
    """Return the tars that `path` matches, in the order of their names, which begin with `prefix`."""
    return find_files(
        path,
        EXTENSIONS,
        "webdataset",
        storage_options=storage_options,
        source=source,
        prefix=prefix,
        rules=RULES,
    )


@dataclass(frozen=True)
class Contents:
    """What a tar holds: its rows, the suffixes in order, and those of the one image of its samples."""

    rows: int
    suffixes: tuple[str, ...]
    images: str
    ignored: Ignored = field(default_factory=Ignored)


#: What tars hold, by address and version: the schema and the count of a remote tar cost one pass, not two.
_KNOWN: dict[tuple[str, str, int], Contents] = {}
MAX_KNOWN = 4096


def _contents(shard: Shard) -> Contents:
    """Return what a tar holds, from its headers alone; what is wrong with it is logged by name."""
    place = (shard.url, shard.version, shard.rules)
    if place not in _KNOWN:
        if len(_KNOWN) >= MAX_KNOWN:
            _KNOWN.clear()
        _KNOWN[place] = _scanned(shard)
    return _KNOWN[place]


def _scanned(shard: Shard) -> Contents:
    ignored, faults, rows = Ignored(), Ignored(), 0
    suffixes: set[str] = set()
    together: set[tuple[str, str]] = set()
    for sample in samples(shard, lambda row, suffix: False, ignored):
        rows += 1
        suffixes.update(sample.names)
        images = [suffix for suffix in sample.names if suffix.rpartition(".")[2] in IMAGES]
        together |= {(one, other) for one in images for other in images}
        if sample.outcome != "ok":
            faults.add(sample.outcome, str(sample.key))
    odd = ignored.without((HIDDEN, STRAY))
    if odd.counts:
        log.warning("%s: members that belong to no sample: %s", shard.url, odd)
    if faults.counts:
        log.warning("%s: samples that cannot be used: %s", shard.url, faults)
    chosen: list[str] = []
    for one in IMAGES:
        if one in suffixes and not any((one, other) in together for other in chosen):
            chosen.append(one)
    chosen = chosen or _behind_names(suffixes, together)
    return Contents(rows, tuple(sorted(suffixes)), ";".join(chosen), ignored)


def _behind_names(suffixes: Iterable[str], together: Container[tuple[str, str]]) -> list[str]:
    """Return the image suffixes behind names (``image.jpg``): those called an image, else all if one at a time."""
    found = sorted(one for one in suffixes if one.rpartition(".")[2] in IMAGES)
    for some in ([one for one in found if one.partition(".")[0] in IMAGE_NAMES], found):
        if some and not any((one, other) in together for one in some for other in some if one != other):
            return some
    return []


@dataclass(frozen=True)
class WebDatasetReader:
    """Reads WebDataset tars; see `base.Reader`. Every pass goes through the tar once, from its start."""

    columns: Columns

    def count(self, shard: Shard) -> int:
        """Return the number of rows, from the headers of the members."""
        found = _contents(shard)
        for kind in (HIDDEN, STRAY):
            for place, name in enumerate(found.ignored.names.get(kind, ())):
                rest = max(0, found.ignored.counts[kind] - EXAMPLES) if place == 0 else 0
                passed_over(name, f"in tars: {kind}", 1 + rest)
        return found.rows

    def schema(self, shard: Shard) -> pa.Schema:
        """Return ``__key__`` and a column per suffix, in sorted order: text as string, else binary."""
        found = _contents(shard)
        kinds = [(suffix, pa.string() if is_text(suffix) else pa.binary()) for suffix in found.suffixes]
        metadata = {IMAGE_KEY: found.images.encode()} if found.images else None
        return pa.schema([(KEY, pa.string()), *kinds], metadata)

    def vector_length(self, shard: Shard) -> int | None:
        """Return None: a tar has no columns of vectors."""
        return None

    def batches(
        self, shard: Shard, *, images: bool, batch_bytes: int, start: int = 0, stop: int | None = None
    ) -> Iterator[Rows]:
        """Yield rows [start, stop) in order, in batches of at most about `batch_bytes`, never fewer than a row.

        Only members that a role names are read.
        """
        chosen = roles.Roles(self.columns)
        needed, last = chosen.suffixes, math.inf if stop is None else stop
        held: list[Sample] = []
        size = 0
        for sample in samples(shard, lambda row, suffix: start <= row < last and suffix in needed):
            if sample.row >= last:
                break
            if sample.row < start:
                continue
            if held and (size + _size(sample) > batch_bytes or len(held) == MAX_ROWS):
                yield roles.rows_of(held, chosen, shard)
                held, size = [], 0
            held.append(sample)
            size += _size(sample)
        if held:
            yield roles.rows_of(held, chosen, shard)

    def read_rows(
        self,
        shard: Shard,
        rows: npt.NDArray[np.int64],
        *,
        batch_bytes: int,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the named rows (ascending positions) with their members as they stand; absent ones are null."""
        if (np.diff(rows) <= 0).any():
            raise ValueError("rows must be ascending, each once")
        schema, named = self.schema(shard), set(rows.tolist())
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns])
        wanted = set(schema.names)
        held: list[Sample] = []
        done = size = 0
        for sample in samples(shard, lambda row, suffix: row in named and suffix in wanted) if named else ():
            if sample.row not in named:
                continue
            held.append(sample)
            done, size = done + 1, size + _size(sample)
            if size >= batch_bytes or len(held) == MAX_ROWS:
                yield _table(held, schema)
                held, size = [], 0
            if done == len(rows):
                break
        if held:
            yield _table(held, schema)
        if done != len(rows):
            raise SourceError(f"{shard.url}: row {int(rows[done])} is asked for, but the tar has fewer rows")


def _size(sample: Sample) -> int:
    return sum(map(len, sample.data.values()))


def _table(held: Sequence[Sample], schema: pa.Schema) -> pa.Table:
    """Return samples as a table. Text keeps its bytes, also where they are not UTF-8."""
    arrays = []
    for one in schema:
        if one.name == KEY:
            arrays.append(pa.array([sample.key for sample in held], pa.string()))
        else:
            arrays.append(
                pa.array([sample.data.get(one.name) for sample in held], pa.binary()).view(one.type)
            )
    return pa.table(arrays, schema=schema)


FORMAT = Format(
    "webdataset",
    EXTENSIONS,
    find,
    lambda columns, allow_url: WebDatasetReader(columns),
    roles.columns,
    what="`.tar`, `.tar.gz`; image, `.txt`, `.json`, `.cls` members",
    rows="keys",
)
