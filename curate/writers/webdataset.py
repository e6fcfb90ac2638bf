"""Write filtered samples as WebDataset tars: members copied as they stand, headers without times or names.

A tar `00000.tar` is whole when its `00000_stats.json` is there, which is written after it. Where rows are
grouped by weight, the tars of a group have one factor, which `train_data.txt` gives to open_clip.
"""

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from curate.errors import RunError, UsageError
from curate.io.storage import atomic, write_json
from curate.sources.addresses import UrlAccess
from curate.sources.base import Columns, RowReader, Shard
from curate.sources.registry import check_unchanged
from curate.writers.shard_plan import KeptRows, OutputFile, Piece, filled, pieces
from curate.writers.tar_members import Row, rows_of
from curate.writers.weight_groups import Tars, train_data_line

__all__ = [
    "ROW_OVERHEAD",
    "Roles",
    "TarFacts",
    "TarTask",
    "check_columns",
    "plan",
    "tasks",
    "write_lists",
    "write_tar",
]

#: What a sample takes in a tar besides image and caption: three headers with padding, and some JSON.
ROW_OVERHEAD = 3 * 1024 + 256
BATCH_BYTES = 32 << 20


@dataclass(frozen=True)
class Roles:
    """Which columns of a shard become members of their own, and whether images may be fetched by URL."""

    columns: Columns
    allow_url: UrlAccess | bool = False


@dataclass(frozen=True)
class TarTask:
    """All that `write_tar` needs; picklable, and independent of the other tars."""

    name: str
    folder: Path
    pieces: tuple[Piece, ...]
    roles: Mapping[str, Roles]
    reader: RowReader
    batch_bytes: int = BATCH_BYTES


@dataclass(frozen=True)
class TarFacts:
    """What is in a tar. renamed : samples that could not keep their key. without_image : image not to be had."""

    rows: int
    members: int
    bytes: int
    renamed: int
    without_image: int


def plan(groups: Iterable[Iterable[KeptRows]], max_shard_size: int) -> list[list[OutputFile]]:
    """Return the tars of each group: rows keep the order of shards and rows, splits and groups stay apart.

    Tars are numbered through; those of several splits are in folders of their own.
    """
    planned = [filled(group, max_shard_size) for group in groups]
    splits = sorted({split for group in planned for split in group})
    numbers = dict.fromkeys(splits, 0)
    files: list[list[OutputFile]] = []
    for group in planned:
        files.append([])
        for split, tars in group.items():
            for slices in tars:
                name = f"{numbers[split]:05d}.tar"
                files[-1].append(OutputFile(f"{split}/{name}" if len(splits) > 1 else name, split, slices))
                numbers[split] += 1
    return files


def tasks(
    files: Iterable[OutputFile],
    load: Callable[[str], KeptRows],
    roles: Callable[[str], Roles],
    reader: RowReader,
    folder: Path,
    *,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[TarTask]:
    """Yield one task per tar; `load` gives the kept rows of a shard by name, `roles` what its columns are."""
    for file, rows in pieces(files, load):
        known = {piece.shard.name: roles(piece.shard.name) for piece in rows}
        yield TarTask(file.name, folder, rows, known, reader, batch_bytes)


def check_columns(reader: RowReader, shards: Iterable[Shard], extra: Sequence[str]) -> None:
    """Raise UsageError if a column that is to be added is there already."""
    for shard in shards if extra else ():
        twice = sorted(set(extra) & set(reader.schema(shard).names))
        if twice:
            raise UsageError(
                f"write.columns: {shard.url} already has a column {twice[0]!r}; rename or leave out one"
            )


def write_tar(task: TarTask) -> TarFacts:
    """Write one tar, whole or not at all, then what is in it; return that.

    Raises SourceError if a source shard is no longer what it was when it was read, RunError where rows are missing.
    """
    path = Path(task.folder) / task.name
    wanted = sum(len(piece.rows) for piece in task.pieces)
    since = [check_unchanged(piece.shard) for piece in task.pieces]
    with atomic(path) as partial:
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            rows, members, renamed, without = _write(tar, task)
        for piece, before in zip(task.pieces, since, strict=True):
            check_unchanged(piece.shard, before)
        if rows != wanted:
            raise RunError(f"{task.name}: {wanted:,} rows were planned, but {rows:,} were read")
    facts = TarFacts(rows, members, path.stat().st_size, renamed, without)
    # The names img2dataset uses come first: tools that count samples know them.
    write_json(path.with_name(f"{path.stem}_stats.json"), {"count": rows, "successes": rows, **vars(facts)})
    return facts


def write_lists(folder: Path, groups: Sequence[tuple[float, Sequence[tuple[OutputFile, TarFacts]]]]) -> None:
    """Write beside the tars `sizes.json`, and `train_data.txt` if they are grouped: what open_clip reads.

    groups : (factor, tars with what is in them). Every split has files of its own.
    """
    for split in sorted({file.split for _, tars in groups for file, _ in tars}):
        mine: list[Tars] = []
        sizes: dict[str, int] = {}
        place = folder
        for factor, tars in groups:
            found = {Path(file.name): facts.rows for file, facts in tars if file.split == split}
            if found:
                mine.append(Tars(factor, tuple(path.name for path in found)))
                sizes |= {path.name: rows for path, rows in found.items()}
                place = folder / next(iter(found)).parent
        write_json(place / "sizes.json", sizes)
        if len(groups) > 1:
            with atomic(place / "train_data.txt") as partial:
                partial.write_text(train_data_line(mine, sum(sizes.values())) + "\n", encoding="utf-8")


def _write(tar: tarfile.TarFile, task: TarTask) -> tuple[int, int, int, int]:
    """Add every sample; return how many samples, members, new keys and samples without their image there are."""
    number = Path(task.name).stem
    rows = members = renamed = without = 0
    taken: set[str] = set()
    for row in _rows(task):
        key = row.key
        if key is None or key in taken:
            # Two samples of one key would be read as one.
            renamed += key is not None
            key = f"{number}-{rows:06d}"
            while key in taken:
                key += "_"
        taken.add(key)
        for suffix, data in row.members:
            _add(tar, f"{key}.{suffix}", data)
        rows, members, without = rows + 1, members + len(row.members), without + (row.missing is not None)
    return rows, members, renamed, without


def _rows(task: TarTask) -> Iterator[Row]:
    for piece in task.pieces:
        roles, done = task.roles[piece.shard.name], 0
        for table in task.reader.read_rows(piece.shard, piece.rows, batch_bytes=task.batch_bytes):
            extra = None if piece.extra is None else piece.extra.slice(done, table.num_rows)
            done += table.num_rows
            yield from rows_of(table, piece.shard, roles.columns, extra, allow_url=roles.allow_url)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a member; TarInfo has no time and no owner, so that the same rows are the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
