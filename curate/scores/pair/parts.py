"""Over the parts of a run: how well each pair of image and caption stands out among the pairs of its batch.

Batches are dealt over the whole data set by hashes of the uids, so that a score depends on the set of
pairs and never on where a row is stored. Only rows that have a caption are dealt. Vectors are read from
the mapped parts batch by batch: memory holds one batch, and a few numbers per row.

Scratch (`.work/pair`): per repeat one file of rows in the order of the batches; per task one piece of
scores with a record batch per part (`curate.execution.exchange`). Pieces carry the fingerprint of the family, so that
an interrupted run goes on with those that are there.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate.embedding.store import EmbeddingPart
from curate.errors import RunError
from curate.execution import exchange
from curate.execution.context import Context, reuse_or_remove
from curate.io import storage
from curate.linalg import load_unit
from curate.scores.base import embedding_parts, require_memory
from curate.scores.pair.formula import OWN_TEMPERATURE, score_batch
from curate.scores.pair.order import ROW_BYTES, KeyTask, deal, has_text, in_hash_order, keys
from curate.scores.status import NO_NEGATIVES, NO_TEXT, OK, status_names
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.scores.pair.pair import Pair

__all__ = ["compute"]

#: Rows that one task scores, in whole batches; a constant, so that pieces are found again with any `memory`.
TASK_ROWS = 65_536

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ScoreTask:
    """Some batches of one repeat: rows [starts[i], starts[i + 1]) of its order. They make one piece."""

    embeddings: tuple[Path, ...]
    order: Path
    starts: tuple[int, ...]
    settings: "Pair"
    temperature: float
    out: Path
    fingerprint: str


@dataclass(frozen=True)
class MeanTask:
    """One part: the means over all pieces, which are in the order of the repeats."""

    embeddings: Path
    index: int
    pieces: tuple[Path, ...]
    settings: "Pair"
    temperature: float
    out: Path
    fingerprint: str


def _stored(settings: "Pair") -> list[str]:
    """Return the columns of a piece; the others of the table follow from them."""
    return [
        name for name in settings.columns_made() if name != "nce" and not name.startswith("neg_clip_loss")
    ]


def compute(context: Context, settings: "Pair", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    parts = embedding_parts(context)
    rows = sum(map(len, parts))
    require_memory(context, "score.pair", rows, ROW_BYTES)
    tasks = [KeyTask(context.run, part.name, context.recipe.seed) for part in context.parts]
    hashes, info = in_hash_order(context.map("score", "parts", keys, tasks), [len(part) for part in parts])
    n_batches = -(-len(hashes) // settings.batch)
    stats: dict[str, Any] = {"pairs": len(hashes), "batch": settings.batch, "batches": n_batches}
    stats["repeats"] = settings.repeats if n_batches > 1 else 1  # all in one batch: every repeat is the same
    stats["temperature"] = _temperature(context, settings) if len(hashes) else None
    scratch = context.run.work / "pair"
    if output.todo():
        pieces: list[Path] = []
        if len(hashes):
            _require_batch(context, settings, min(settings.batch, len(hashes)), parts[0].dim)
            dealt = deal(hashes, info, settings.batch, stats["repeats"], scratch)
            pieces = _make_pieces(context, settings, dealt, stats["temperature"], output.fingerprint)
        means = _mean_tasks(context, settings, pieces, stats["temperature"] or 1.0, output)
        context.map("score", "parts", _mean, means)
    storage.remove(scratch)
    if rows and not len(hashes) and settings.needed:
        stats["warnings"] = ["there is no caption to compare images with; all scores are null (no_text)"]
    if not len(hashes) and not settings.needed:
        stats["idle"] = True
    return stats | _counted(output)


def _make_pieces(
    context: Context,
    settings: "Pair",
    dealt: Iterable[tuple[Path, list[int]]],
    temperature: float,
    fingerprint: str,
) -> list[Path]:
    """Score all batches of all repeats; return the pieces, in the order of the repeats."""
    tasks = [
        task
        for order, sizes in dealt
        for task in _score_tasks(context, settings, order, sizes, temperature, fingerprint)
    ]
    waiting = [task for task in tasks if not reuse_or_remove(task.out, task.fingerprint)]
    context.map("score", "pieces of pairs", _score, waiting)
    return [task.out for task in tasks]


def _mean_tasks(
    context: Context, settings: "Pair", pieces: Sequence[Path], temperature: float, output: Output
) -> list[MeanTask]:
    """Return a task for every part that has no table yet."""
    todo = {part.name for part in output.todo()}
    return [
        MeanTask(
            context.run.part(context.run.embeddings, part.name), index, tuple(pieces), settings, temperature,
            output.path(part), output.fingerprint,
        )
        for index, part in enumerate(context.parts)
        if part.name in todo
    ]  # fmt: skip


def _counted(output: Output) -> dict[str, int]:
    """Return how many rows have scores, and how many have none because nothing was their negative."""
    found: Counter[str] = Counter()
    for part in output.context.parts:
        found.update(storage.read_table(output.path(part), ["pair_status"])["pair_status"].to_pylist())
    return {"scored": found["ok"], "no_negatives": found["no_negatives"]}


def _temperature(context: Context, settings: "Pair") -> float:
    """Return the temperature that is asked for, or that of the model."""
    if settings.temperature != "auto":
        return settings.temperature
    if context.recipe.embed.own_vectors:
        return OWN_TEMPERATURE
    from curate.embedding import clip

    embed = context.recipe.embed
    return clip.load(embed.model, embed.pretrained, device="cpu", precision="float32").temperature


def _require_batch(context: Context, settings: "Pair", batch: int, dim: int) -> None:
    """Raise RunError unless the vectors of one batch fit into what a task may hold."""
    row_bytes = 16 * dim + 200  # both vectors in float32, one once more as it is read, running sums
    if batch * row_bytes > context.task_memory:
        raise RunError(
            f"score.pair.batch {settings.batch:,} needs {batch * row_bytes / 1e9:.1f} GB per worker; memory "
            f"{context.recipe.memory / 1e9:g}GB and workers {context.engine.machine_workers} fit "
            f"{context.task_memory // row_bytes:,}: lower score.pair.batch, raise memory, or use fewer workers"
        )


def _score_tasks(
    context: Context,
    settings: "Pair",
    order: Path,
    sizes: Sequence[int],
    temperature: float,
    fingerprint: str,
) -> Iterator[ScoreTask]:
    """Yield the tasks of one repeat, whole batches of about `TASK_ROWS` rows."""
    embeddings = tuple(context.run.part(context.run.embeddings, part.name) for part in context.parts)
    ends = [0, *np.cumsum(sizes).tolist()]
    step = max(1, TASK_ROWS // settings.batch)
    for first in range(0, len(sizes), step):
        starts = tuple(ends[first : first + step + 1])
        out = order.with_name(f"{order.stem}-{first}.arrow")
        piece = storage.fingerprint(fingerprint, out.name, starts)
        yield ScoreTask(embeddings, order, starts, settings, temperature, out, piece)


# --- scores of batches, means of parts --------------------------------------------------------------


def _score(task: ScoreTask) -> None:
    """Score some batches and write the piece. One thread: the last bits of a product depend on their number."""
    from threadpoolctl import threadpool_limits

    parts = [EmbeddingPart(path) for path in task.embeddings]
    ends = np.cumsum([len(part) for part in parts])
    order = np.load(storage.ensure_local(task.order), mmap_mode="r")[task.starts[0] : task.starts[-1]]
    codes = (order[:, 1], order[:, 2]) if task.settings.mask_copies else (None, None)
    names = _stored(task.settings)
    values = np.empty((len(order), len(names)))
    with threadpool_limits(1, user_api="blas"):
        for start, stop in pairwise(task.starts):
            rows = slice(start - task.starts[0], stop - task.starts[0])
            caption, picture = (None if code is None else np.asarray(code[rows]) for code in codes)
            scores = score_batch(
                _take(parts, ends, "image", order[rows, 0]), _take(parts, ends, "text", order[rows, 0]),
                temperature=task.temperature, caption=caption, picture=picture,
                el2n=task.settings.el2n, grand=task.settings.grand,
            )  # fmt: skip
            values[rows] = np.stack([getattr(scores, name) for name in names], axis=1)
    index = np.searchsorted(ends, order[:, 0], side="right")
    position = (order[:, 0] - np.concatenate([[0], ends])[index]).astype(np.int32)
    exchange.scatter(
        task.out, index, len(parts),
        lambda rows: pa.table({"position": position[rows], **dict(zip(names, values[rows].T, strict=True))}),
        pa.schema([("position", pa.int32()), *((name, pa.float64()) for name in names)]), task.fingerprint,
    )  # fmt: skip


def _take(parts: Sequence[EmbeddingPart], ends: Ints, column: str, places: Ints) -> npt.NDArray[np.float32]:
    """Return the unit rows at places counted over all parts, in the order of the places."""
    result = np.empty((len(places), parts[0].dim), np.float32)
    index = np.searchsorted(ends, places, side="right")
    for one in np.unique(index).tolist():
        here = np.flatnonzero(index == one)
        first = ends[one] - len(parts[one])
        result[here] = load_unit(parts[one].take(column, places[here] - first))
    return result


def _mean(task: MeanTask) -> None:
    """Write the table of a part: means over the repeats in which a pair had negatives."""
    part = EmbeddingPart(task.embeddings)
    names = list(task.settings.columns_made())
    sums, n_obs = {name: np.zeros(len(part)) for name in names}, np.zeros(len(part))
    for piece in task.pieces:
        found = exchange.gather([piece], task.index)
        rows = found["position"].to_numpy()
        values = {name: found[name].to_numpy() for name in _stored(task.settings)}
        values["nce"] = (values["nce_i2t"] + values["nce_t2i"]) / 2
        values["neg_clip_loss"] = -task.temperature * values["nce"]
        values["neg_clip_loss_norm"] = -task.temperature * values["nce_norm"]
        seen = np.isfinite(values["nce"])
        n_obs[rows[seen]] += 1
        for name, total in sums.items():
            total[rows[seen]] += values[name][seen]
    counts = np.where(n_obs > 0, n_obs, np.nan)
    means = {name: (total / counts).astype(np.float32) for name, total in sums.items()}
    status = np.where(n_obs > 0, OK, np.where(has_text(part), NO_NEGATIVES, NO_TEXT))
    arrays = [pa.array(means[name], mask=np.isnan(means[name])) for name in names]
    columns = [
        pa.array(part.uids(), pa.string()),
        *arrays,
        pa.array(status_names(status).tolist(), pa.string()),
    ]
    schema = task.settings.table()
    storage.write_parquet(task.out, pa.table(columns, schema=schema), schema, task.fingerprint)
