"""The objects in rows that compete: from the vectors that the score `objects` stored, or from a column of a frame."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError, UsageError
from curate.execution import exchange
from curate.execution.context import Context
from curate.io import storage
from curate.linalg import load_unit, unit_rows
from curate.scores.objects.store import read_objects
from curate.selection.base import Arrays
from curate.selection.coverage import Covered, Objects
from curate.selection.rows.ranks import Ranked

if TYPE_CHECKING:
    from curate.selection.rows.run_rows import RunRows

__all__ = ["in_words", "noted", "objects_in", "objects_of_frame", "placed", "ranks_by"]

#: Bytes of an object besides its vector: names, places, and what is counted of it.
_ROW_BYTES = 300
#: Classes whose counts are noted, and objects that are named as examples, those of the rarest classes first.
MOST_CLASSES, MOST_EXAMPLES = 2_000, 160
#: Classes that a sentence names.
FEW = 3


def objects_in(context: Context, blocks: Iterable[Arrays]) -> Objects:
    """Return the objects of rows of a run. blocks : `part` and `position` (among its samples with vectors) of the rows.

    Raises RunError where their vectors do not fit into memory.
    """
    where: dict[int, list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]] = {}
    n = 0
    for block in blocks:
        for part in np.unique(block["part"]).tolist():
            here = np.flatnonzero(block["part"] == part)
            where.setdefault(part, []).append((n + here, block["position"][here].astype(np.int64)))
        n += len(block["part"])
    rows, categories, indices, vectors = [], [], [], []
    for part in sorted(where):
        number, position = (np.concatenate(both) for both in zip(*where[part], strict=True))
        found = read_objects(context.run, context.parts[part].name)
        row = np.full(int(position.max(initial=-1)) + 2, -1)
        row[position] = number
        own = row[np.minimum(found.position, len(row) - 1)]
        there = own >= 0
        rows.append(own[there])
        categories.append(found.category[there])
        indices.append(found.index[there])
        vectors.append(found.vectors[there])
        _require_room(context, vectors)
    if not rows:
        return Objects(
            np.empty(0, np.int64),
            np.empty(0, object),
            np.empty(0, np.int64),
            lambda at: np.empty((0, 1), np.float32),
        )
    stored = np.concatenate(vectors)
    del vectors
    return Objects(
        np.concatenate(rows),
        np.concatenate(categories),
        np.concatenate(indices),
        lambda at: load_unit(stored[at]),
    )


def _require_room(context: Context, vectors: list[npt.NDArray[np.float16]]) -> None:
    """Raise RunError unless half vectors fit into memory, twice, and those of one class in single precision."""
    count, dim = sum(map(len, vectors)), vectors[0].shape[1]
    room = context.recipe.memory * 3 // 4 // (8 * dim + _ROW_BYTES)
    if count > room:
        raise RunError(
            f"select.method objects holds the vectors of all objects in memory; there are {count:,} or more, and "
            f"{room:,} fit: raise memory, or score: objects.confidence"
        )


def placed(ranked: Ranked, key: npt.NDArray[np.uint64], n_parts: int) -> Ranked:
    """Return rows ranked anew by other keys, (n,), of those that compete, in the order of their blocks."""
    fingerprint = storage.fingerprint(ranked.fingerprint, "placed", key.tobytes())
    files, start = [], 0
    for path in ranked.files if n_parts else ():
        rows = pl.concat(
            [pl.DataFrame(exchange.gather([path], part)).with_columns(of=part) for part in range(n_parts)]
        )
        there = ~rows["cut"].to_numpy() if "cut" in rows.columns else np.ones(len(rows), np.bool_)
        stop = start + int(there.sum())
        own = rows["key"].to_numpy().copy()
        own[there] = key[start:stop]
        rank = rows["rank"].to_numpy().copy()
        rank[there] = ranks_by(rows.filter(pl.Series(there)), own[there])
        start = stop
        group, kind = rows["of"].to_numpy(), storage.map_ipc(path).schema.remove_metadata()
        new = (
            rows.with_columns(pl.Series("key", own), pl.Series("rank", rank))
            .select(kind.names)
            .to_arrow()
            .cast(kind)
        )
        out = path.with_name(f"placed-{path.name}")
        exchange.scatter(out, group, n_parts, new.take, kind, fingerprint)
        files.append(out)
    return Ranked(tuple(files), ranked.concepts, fingerprint, ranked.first)


def noted(
    context: Context, rows: "RunRows", covered: Covered, path: Path, fingerprint: str
) -> dict[str, Any]:
    """Write which rows cover what, in the order in which they were taken; return the facts of all classes."""
    none = {"part": np.empty(0, np.int32), "position": np.empty(0, np.int32)}
    blocks = [none, *rows.blocks("part", "position")]
    part, position = (np.concatenate([block[name] for block in blocks]) for name in ("part", "position"))
    uid = np.empty(len(part), object)
    named = np.unique(np.concatenate([covered.taken, [row for _, row, _, _ in covered.examples]])).astype(
        np.int64
    )
    for index in np.unique(part[named]).tolist():
        names = EmbeddingPart(context.run.part(context.run.embeddings, context.parts[index].name)).uids()
        here = named[part[named] == index]
        uid[here] = [names[at] for at in position[here].tolist()]
    taken = covered.taken
    table = pa.table(
        {
            "uid": pa.array(uid[taken].tolist(), pa.string()), "place": pa.array(np.arange(1, len(taken) + 1, dtype=np.int32)),
            "objects": pa.array(covered.objects.astype(np.int32)), "classes": pa.array(covered.kinds.astype(np.int32)),
            "groups_covered": pa.array(covered.gained.astype(np.int32)),
        }
    )  # fmt: skip
    storage.write_parquet(path, table, table.schema, fingerprint)
    examples = [
        {"class": name, "uid": uid[row], "part": context.parts[part[row]].name, "position": int(position[row]), "index": at, "covered": is_in}
        for name, row, at, is_in in covered.examples
    ]  # fmt: skip
    return {
        "classes": list(covered.classes[:MOST_CLASSES]),
        "of": len(covered.classes),
        "examples": examples[:MOST_EXAMPLES],
    }


def in_words(found: Mapping[str, Any]) -> str:
    """Say what of the objects is covered. found : what `noted` returned.

    >>> one = {"class": "car", "kept_rows": 2, "groups": 4, "covered": 3}
    >>> in_words({"classes": [one, {**one, "class": "bus", "kept_rows": 0, "covered": 0}], "of": 2, "examples": []})
    'objects of 1 of 2 classes are in kept images, 3 of 8 groups of them; not bus'
    """
    classes = found["classes"]
    lacks = [one["class"] for one in classes if not one["kept_rows"]]
    groups, covered = (sum(one[name] for one in classes) for name in ("groups", "covered"))
    named = f"; not {', '.join(lacks[:FEW])}{' and others' if len(lacks) > FEW else ''}" if lacks else ""
    return (
        f"objects of {len(classes) - len(lacks):,} of {len(classes):,} classes are in kept images, {covered:,} of {groups:,} "
        f"groups of them{named}"
    )


def ranks_by(rows: pl.DataFrame, key: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Return the rank of each row in its concept by a key (n,), pinned rows first; equal ones as they were ranked before."""
    concept = rows["concept"].to_numpy()
    order = np.lexsort((rows["rank"].to_numpy(), key, ~rows["pinned"].to_numpy(), concept))
    starts = np.flatnonzero(np.diff(concept[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(1, len(order) + 1) - np.repeat(starts, sizes)
    return ranks


def objects_of_frame(frame: pl.DataFrame) -> Objects:
    """Return the objects of a frame: `objects`, a list of structs with `vector` and perhaps `category`; null is none.

    Raises UsageError for anything else, and for vectors of several lengths or without a direction.
    """
    if "objects" not in frame.columns:
        raise UsageError(
            "select: method objects needs a column 'objects': for each row a list of objects with `category` and `vector`"
        )
    row, category, index, vectors = [], [], [], []
    for number, given in enumerate(frame["objects"].to_list()):
        for at, one in enumerate(given or ()):
            if not isinstance(one, dict) or not one.get("vector"):
                raise UsageError(
                    f"select: objects must be structs with a `vector`, got {str(one)[:60]} in row {number}; a run makes "
                    "vectors of boxes (score: objects)"
                )
            row.append(number)
            category.append(str(one.get("category", "object")))
            index.append(at)
            vectors.append(one["vector"])
    widths = sorted({len(one) for one in vectors})
    if len(widths) > 1:
        raise UsageError(f"select: vectors of objects must be of one length; there are lengths {widths}")
    unit, valid = unit_rows(np.array(vectors, np.float32).reshape(len(vectors), *(widths or [1])))
    if not valid.all():
        raise UsageError(
            f"select: the vector of an object has no direction, in row {row[int(valid.argmin())]}"
        )
    return Objects(
        np.array(row, np.int64), np.array(category, object), np.array(index, np.int64), lambda at: unit[at]
    )
