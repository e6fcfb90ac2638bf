"""Write the kept images as a folder of links or copies: sub-folders, captions in side files and metadata stay.

An image keeps its path below the folder of the source. Where a run has several sources, each has a folder of its name.
"""

import csv
import filecmp
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.errors import UsageError
from curate.io.filesystem import is_remote
from curate.sources.base import Shard
from curate.sources.folder.folder import described_rows
from curate.sources.folder.tree import content, place_of
from curate.sources.registry import format_of
from curate.sources.rows import PARALLEL_READS
from curate.writers.exports.image_files import ImageFile

__all__ = ["ImageFolder", "check_outside"]

BATCH_BYTES = 32 << 20
BLOCK = 256


@dataclass(frozen=True)
class ImageFolder:
    """A new folder that images go into. links : symbolic links to the files, else copies. named : sources have folders."""

    folder: Path
    links: bool
    named: bool

    def add(self, shard: Shard, samples: Iterable[ImageFile]) -> int:
        """Put images, with the side files that hold their captions, where they belong; return how many images."""
        count = 0
        sides = _side_files(shard)
        with ThreadPoolExecutor(1 if self.links else PARALLEL_READS) as pool:
            for block in _blocks(samples):
                # a row may name the image of another: each file is written once
                files: dict[str, Path] = {}
                for one in block:
                    target = self._target(shard, one, files)
                    files[target] = one.path
                    if one.ref in sides:
                        side = PurePosixPath(sides[one.ref]).name
                        files[str(PurePosixPath(target).with_name(side))] = one.path.with_name(side)
                list(pool.map(self._put, files, files.values()))
                count += len(block)
        return count

    def describe(self, shard: Shard, rows: np.ndarray) -> None:
        """Write the rows of a shard's metadata file, if it has one, that are among `rows`; no file where there are none."""
        if shard.format != "folder" or not len(rows):
            return
        found = described_rows(shard, rows, batch_bytes=BATCH_BYTES)
        if found is not None:
            name, schema, tables = found
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _WRITERS[target.suffix](target, schema, tables)

    def _target(self, shard: Shard, one: ImageFile, taken: Mapping[str, Path]) -> str:
        """Return the path of an image in the new folder: `taken` ones are of other images, unless they are the same."""
        prefix, beside = format_of(shard.format).images_beside(shard)
        inside = PurePosixPath(shard.access.named(one.ref.removeprefix(prefix)))
        head = prefix
        if not prefix and shard.format != "folder":
            head = f"{shard.source}/" if self.named else ""
            if not shard.access.roots:  # paths begin at the folder of the shard
                head = "".join(shard.name.rpartition("/")[:2])
        if inside.is_absolute() or ".." in inside.parts or "://" in one.ref:
            inside = _below(one.path, [base for base in shard.access.bases(beside) if not is_remote(base)])
        target = f"{head}{inside}"
        there = self.folder / target
        before = taken.get(target, there if there.is_symlink() or there.exists() else one.path)
        if before.resolve() != one.path.resolve() and not filecmp.cmp(before, one.path, shallow=False):
            target = str(PurePosixPath("elsewhere", *one.path.resolve().parts[1:]))
        return target

    def _put(self, target: str, file: Path) -> None:
        place = self.folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.links and not place.is_symlink():
            place.symlink_to(file.resolve())
        elif not self.links and not place.exists():
            shutil.copyfile(file, place)


def check_outside(out: Path, shards: Iterable[Shard]) -> None:
    """Raise UsageError if a folder lies in a source, whose next run would read it."""
    for shard in shards:
        root = place_of(shard).root if shard.format == "folder" else ""
        if root and not is_remote(root) and out.resolve().is_relative_to(Path(root).resolve()):
            raise UsageError(
                f"--out {out} lies in the source {root}, which would have these images twice; name another"
            )


def _blocks(samples: Iterable[ImageFile]) -> Iterator[list[ImageFile]]:
    block: list[ImageFile] = []
    for one in samples:
        block.append(one)
        if len(block) == BLOCK:
            yield block
            block = []
    if block:
        yield block


def _side_files(shard: Shard) -> Mapping[str, str]:
    """Return the side file of each image of a folder, by what the source calls them."""
    if shard.format != "folder":
        return {}
    prefix = place_of(shard).prefix
    return {prefix + image: side for image, side in content(shard).captions.items()}


def _below(path: Path, bases: Iterable[str]) -> PurePosixPath:
    """Return the path of a file below the first folder that it lies in; outside of all, below `elsewhere`."""
    whole = Path(os.path.normpath(path))
    for base in bases:
        if whole.is_relative_to(base):
            return PurePosixPath(whole.relative_to(base))
    return PurePosixPath("elsewhere", *whole.parts[1:])


def _as_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with pq.ParquetWriter(str(path), schema) as writer:
        for table in tables:
            writer.write_table(table)


def _as_jsonl(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for table in tables:
            for row in table.to_pylist():
                told = {name: value for name, value in row.items() if value is not None}
                file.write(json.dumps(told, ensure_ascii=False, default=str) + "\n")


def _as_csv(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(schema.names)
        for table in tables:
            lines.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))


_WRITERS = {".parquet": _as_parquet, ".jsonl": _as_jsonl, ".csv": _as_csv}
