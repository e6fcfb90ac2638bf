"""Lists of uids that a recipe pins, excludes or is limited to: text, tables, or the subset files of DataComp.

A list is held as 128-bit hashes of its uids, sorted, in a file that is mapped: 16 bytes per uid, once for all
processes.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
import xxhash

from curate.errors import SourceError, UsageError
from curate.execution.context import Context, log
from curate.io import paths, storage
from curate.io.filesystem import is_remote
from curate.scores.base import require_memory
from curate.sources.arrow_types import is_text, plain_type
from curate.sources.columns import uids_of

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = [
    "Lists",
    "check_recipe",
    "check_unchanged",
    "hashes",
    "left_out",
    "listed",
    "prepare",
    "read_uids",
    "version",
]

#: The settings that are lists.
SETTINGS = ("pin", "exclude", "only")
#: The endings that a list may have.
ENDINGS = (".txt", ".parquet", ".csv", ".jsonl", ".npy")
#: uids of DataComp: the two halves of 32 hexadecimal digits.
_HALVES = np.dtype("u8,u8")
_BLOCK = 65_536
_EXAMPLES = 3
#: What a uid takes while a list is sorted (measured with 3,000,000).
_ROW_BYTES = 120

Hashes = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Lists:
    """Files of sorted hashes of the uids that are pinned, excluded, and alone allowed; None where there is no list."""

    pin: Path | None
    exclude: Path | None
    only: Path | None = None


def check_recipe(recipe: "Recipe") -> None:
    """Raise UsageError for lists that cannot be read as lists, and for a uid that is on both."""
    for setting in SETTINGS:
        for path in _files(setting, getattr(recipe, setting)):
            _check(setting, path)
    if recipe.pin and recipe.exclude:
        pinned, excluded = (_sorted(setting, getattr(recipe, setting)) for setting in ("pin", "exclude"))
        _refuse_both(recipe, pinned, excluded)


def version(recipe: "Recipe") -> list[list[str]]:
    """Return what changes with the content of the lists: the hashes of their files."""
    return [
        [storage.hash_file(path) for path in _files(setting, getattr(recipe, setting))]
        for setting in SETTINGS
        if setting != "only" or recipe.only  # runs made before there was one keep their fingerprints
    ]


def check_unchanged(recipe: "Recipe", before: list[list[str]]) -> None:
    """Raise SourceError unless the lists are what they were when `version` returned this."""
    if version(recipe) != before:
        named = [name for name in SETTINGS if getattr(recipe, name)]
        raise SourceError(
            f"{', '.join(named)}: a list of uids was written to or replaced while it was being read; run again"
        )


def prepare(context: Context, scratch: Path) -> tuple[Lists, dict[str, int]]:
    """Write the lists of the recipe for use by parts; return them and how many uids were found, and not.

    A listed uid that is an exact copy of another sample pins (or allows) the sample that stands for it. Uids that are not
    in the run, or not usable, are counted and warned about.
    """
    recipe = context.recipe
    found: dict[str, Hashes] = {}
    facts: dict[str, int] = {}
    for setting in SETTINGS:
        if not getattr(recipe, setting):
            continue
        known = _sorted(setting, getattr(recipe, setting), context)
        seen, useless, stand_ins = _seen(context, known)
        _warn(recipe, setting, known, seen, useless)
        facts[f"{setting}_uids"] = len(known)
        facts[f"{setting}_unknown"] = int((~seen).sum())
        found[setting] = known if setting == "exclude" else np.union1d(known, stand_ins)
    if "pin" in found and "exclude" in found:
        _refuse_both(recipe, found["pin"], found["exclude"])
    files = {
        setting: scratch / f"{setting}.npy" for setting in found if len(found[setting]) or setting == "only"
    }
    for setting, path in files.items():
        with storage.atomic(path) as partial, partial.open("wb") as file:
            np.save(file, found[setting])
    return Lists(files.get("pin"), files.get("exclude"), files.get("only")), facts


def listed(path: Path | None, uids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which uids are on a list written by `prepare`, (n,); none where there is no list."""
    if path is None:
        return np.zeros(len(uids), np.bool_)
    return _inside(np.load(storage.ensure_local(path), mmap_mode="r", allow_pickle=False), hashes(uids))[0]


def left_out(found: Lists, uids: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which uids the lists take out, (n,): those to exclude, and those that are not alone allowed."""
    out = listed(found.exclude, uids)
    return out if found.only is None else out | ~listed(found.only, uids)


def hashes(uids: Iterable[str]) -> Hashes:
    """Return the 128-bit hash of each uid as 16 bytes, (n,).

    >>> hashes(["a"]).dtype, len(hashes([]))
    (dtype('S16'), 0)
    """
    raw = b"".join(xxhash.xxh3_128_digest(uid.encode("utf-8", "surrogatepass")) for uid in uids)
    return np.frombuffer(raw, "S16")


def read_uids(path: Path) -> Iterator[list[str]]:
    """Yield the uids of a list, block by block; empty lines are passed over.

    Raises UsageError where the file has no column of uids, SourceError where it is not what its name says.
    """
    try:
        yield from _READERS[path.suffix.lower()](path)
    except (OSError, ValueError) as error:  # pyarrow and json raise kinds of ValueError
        raise SourceError(
            f"{path}: cannot be read as {path.suffix}: {' '.join(str(error).split())}"
        ) from error


# --- files ----------------------------------------------------------------------------------------------


def _files(setting: str, patterns: Sequence[str]) -> list[Path]:
    """Return the files of a list; raises UsageError where one is missing or of an unknown kind."""
    if not patterns:
        return []
    try:
        found = paths.expand(list(patterns), {}, extensions=ENDINGS)
    except (UsageError, SourceError) as error:
        raise UsageError(f"{setting}: {error}") from error
    for file in found:
        if is_remote(file.url):
            raise UsageError(f"{setting}: {file.url} is not on this machine; copy it first")
        if not file.url.lower().endswith(ENDINGS):
            raise UsageError(f"{setting}: {file.url} must end in {', '.join(ENDINGS)}")
    return [Path(file.url) for file in found]


def _check(setting: str, path: Path) -> None:
    """Raise UsageError for a table without a column of uids, as far as its head says."""
    try:
        if path.suffix.lower() == ".parquet":
            _column(path, pq.read_schema(path).names)
        else:
            next(read_uids(path), None)
    except UsageError as error:
        raise UsageError(f"{setting}: {error}") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{setting}: {path}: {' '.join(str(error).split())}") from error


def _text(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from _blocks(line.strip() for line in lines)


def _jsonl(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig") as lines:
        yield from _blocks(_of_json(path, json.loads(line)) for line in lines if line.strip())


def _of_json(path: Path, value: object) -> str:
    if isinstance(value, dict):
        value = value[_column(path, list(value))]
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise UsageError(f"{path}: a uid must be text or a whole number, got {value!r}")


def _csv(path: Path) -> Iterator[list[str]]:
    names = pc.open_csv(path).schema.names
    column = _column(path, names)
    options = pc.ConvertOptions(
        column_types={column: pa.string()}, include_columns=[column], strings_can_be_null=False
    )
    for batch in pc.open_csv(path, convert_options=options):
        yield from _blocks(batch.column(0).to_pylist())


def _parquet(path: Path) -> Iterator[list[str]]:
    with pq.ParquetFile(path) as file:
        column = _column(path, file.schema_arrow.names)
        kind = plain_type(file.schema_arrow.field(column).type)
        if not (is_text(kind) or pt.is_integer(kind)):
            raise UsageError(f"{path}: column {column!r} must hold text or whole numbers, it is {kind}")
        row = 0
        for batch in file.iter_batches(_BLOCK, columns=[column]):
            yield uids_of(pa.Table.from_batches([batch]), column, row, str(path)) or []
            row += batch.num_rows


def _npy(path: Path) -> Iterator[list[str]]:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 1 or array.dtype.newbyteorder("=") != _HALVES:
        raise UsageError(f"{path}: must be one row of 'u8,u8' (DataComp), it is {array.dtype} {array.shape}")
    for start in range(0, len(array), _BLOCK):
        block = np.array(array[start : start + _BLOCK])
        digits = np.stack([block["f0"], block["f1"]], axis=1).astype(">u8").tobytes().hex()
        yield [digits[at : at + 32] for at in range(0, len(digits), 32)]


_READERS = {".txt": _text, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet, ".npy": _npy}


def _column(path: Path, names: Sequence[str]) -> str:
    """Return the column of uids: `uid`, or the only one."""
    if "uid" in names:
        return "uid"
    if len(names) == 1:
        return names[0]
    raise UsageError(f"{path}: no column 'uid'; there are {', '.join(names) or 'none'}")


def _blocks(uids: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for uid in uids:
        if uid:
            block.append(uid)
        if len(block) == _BLOCK:
            yield block
            block = []
    yield block


# --- sets of uids ---------------------------------------------------------------------------------------


def _sorted(setting: str, patterns: Sequence[str], context: Context | None = None) -> Hashes:
    """Return the hashes of all uids of a list, sorted, each once."""
    found, count = [np.empty(0, "S16")], 0
    for path in _files(setting, patterns):
        for uids in read_uids(path):
            found.append(hashes(uids))
            count += len(uids)
            if context is not None:
                require_memory(context, f"{setting}: a list", count, _ROW_BYTES)
    return np.unique(np.concatenate(found))


def _inside(known: Hashes, wanted: Hashes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return which of `wanted` are in the sorted `known`, and the places of those there."""
    place = np.searchsorted(known, wanted)
    inside = np.zeros(len(wanted), np.bool_)
    possible = place < len(known)
    inside[possible] = known[place[possible]] == wanted[possible]
    return inside, place[inside]


def _seen(context: Context, known: Hashes) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], Hashes]:
    """Return which listed uids are in the run, which of them only as unusable rows, and who stands for copies."""
    seen, usable = np.zeros(len(known), np.bool_), np.zeros(len(known), np.bool_)
    stand_ins = [np.empty(0, "S16")]
    for part in context.parts:
        path = context.run.part(context.run.samples, part.name)
        frame = pl.DataFrame(storage.read_table(path, ["uid", "outcome", "copy_of"]))
        inside, place = _inside(known, hashes(frame["uid"].to_list()))
        seen[place] = True
        ok = (frame["outcome"] == "ok").to_numpy()[inside]
        usable[place[ok]] = True
        copies = frame.filter(inside)["copy_of"].filter(ok).drop_nulls()
        stand_ins.append(hashes(copies.to_list()))
    return seen, seen & ~usable, np.unique(np.concatenate(stand_ins))


def _warn(
    recipe: "Recipe", setting: str, known: Hashes, seen: npt.NDArray[np.bool_], useless: npt.NDArray[np.bool_]
) -> None:
    if not seen.all():
        examples = ", ".join(_examples(recipe, setting, known[~seen]))
        log.warning(
            "%s: %s of %s uids are not in the run, such as %s",
            setting, f"{(~seen).sum():,}", f"{len(seen):,}", examples,
        )  # fmt: skip
    if setting == "pin" and useless.any():
        examples = ", ".join(_examples(recipe, setting, known[useless]))
        log.warning(
            "pin: %s samples are unusable and cannot be kept, such as %s", f"{useless.sum():,}", examples
        )


def _refuse_both(recipe: "Recipe", pinned: Hashes, excluded: Hashes) -> None:
    both = np.intersect1d(pinned, excluded, assume_unique=True)
    if len(both):
        example = _examples(recipe, "exclude", both)[0]
        raise UsageError(
            f"pin and exclude: {len(both):,} uids are on both lists (or copies of such), such as {example}; "
            "take them from one"
        )


def _examples(recipe: "Recipe", setting: str, wanted: Hashes) -> list[str]:
    """Return the first of a list's uids (in their order) that have these hashes."""
    found: set[str] = set()
    for path in _files(setting, getattr(recipe, setting)):
        for uids in read_uids(path):
            inside, _ = _inside(np.sort(wanted), hashes(uids))
            found |= {uid for uid, there in zip(uids, inside.tolist(), strict=True) if there}
            found = set(sorted(found)[:_EXAMPLES])
    return sorted(found)
