"""Concepts of what is left: fitted again on the rows that passed conditions and dedup, before the selection.

The blocks of `2_concepts` serve to compare samples, and for scores that go by concept. Where `dedup.blocks` is set, the
selection goes by concepts of its own, in `4_concepts`: the same tables, of all samples, fitted on the eligible ones
alone. They stay as long as the eligible rows, their vectors and the settings are the same: another share to keep fits nothing.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curate import schema
from curate.execution.context import Context, log, reuse_or_remove
from curate.io import storage
from curate.pipeline.stages.cluster import AssignTask, assign_part, fit, fit_facts, model_of
from curate.pipeline.stages.levels import level_facts, there
from curate.runs.folder import RunFolder
from curate.selection.rows.ranks import candidates

__all__ = ["VERSION", "run"]

VERSION = 1


@dataclass(frozen=True)
class LeftTask:
    """One part whose eligible rows are found."""

    run: RunFolder
    part: str


def run(context: Context) -> bool:
    """Fit and assign where the rows that are left are others than before; return whether anything was to do."""
    folder, recipe = context.run.refitted, context.recipe
    if recipe.dedup.blocks is None:
        was = folder.exists()
        storage.remove(folder)
        return was
    left = dict(
        enumerate(
            context.map("select", "parts", _left, [LeftTask(context.run, p.name) for p in context.parts])
        )
    )
    n_left = sum(len(positions) for positions, _ in left.values())
    embedded = context.run.fingerprint(context.run.embeddings)
    rows = hashlib.sha256("".join(sorted(digest for _, digest in left.values())).encode()).hexdigest()
    wanted = storage.fingerprint("refit", VERSION, recipe.cluster.of_fit(), model_of(context), rows, embedded)
    if context.run.is_done(folder, wanted):
        return False
    context.run.unmark(folder)
    centroids = folder / "centroids.parquet"
    known = storage.stored_fingerprint(centroids)
    if not (known or "").startswith(wanted) or not there(folder, recipe.cluster, known):
        storage.remove(centroids)
        among = {index: positions for index, (positions, _) in left.items()} if n_left else None
        fit(context, recipe.cluster, centroids, wanted, rows, among, stage="select")
    sizes = _assign(context, centroids)
    context.run.keep_only(folder / "assignments", [part.name for part in context.parts])
    facts = {
        "concepts": len(sizes), "samples": int(sizes.sum()), "fitted_on": n_left, "empty": int((sizes == 0).sum()),
        "largest": int(sizes.max(initial=0)), "fit": fit_facts(centroids),
        **level_facts(folder),
    }  # fmt: skip
    context.run.mark(folder, wanted, facts)
    log.info("select: concepts fitted on the %s samples that are left: %s", f"{n_left:,}", f"{len(sizes):,}")
    return True


def _left(task: LeftTask) -> tuple[npt.NDArray[np.int64], str]:
    """Return the places of a part's rows that are left among its vectors, and a digest of their uids."""
    frame, position = candidates(task.run, task.part, (), final=False)
    state = hashlib.sha256("\n".join(sorted(frame["uid"].to_list())).encode())
    return position.astype(np.int64), state.hexdigest()


def _assign(context: Context, centroids: Path) -> npt.NDArray[np.int64]:
    """Assign all samples, and count those of each concept into the table of concepts; return the counts, (k,)."""
    run, fitted = context.run, str(storage.stored_fingerprint(centroids))
    tasks = []
    for part in context.parts:
        embeddings, out = (
            run.part(run.embeddings, part.name),
            run.part(run.refitted / "assignments", part.name),
        )
        fingerprint = storage.fingerprint("refit", VERSION, fitted, storage.stored_fingerprint(embeddings))
        if not reuse_or_remove(out, fingerprint):
            rows = context.rows / context.engine.machine_workers
            tasks.append(AssignTask(embeddings, centroids, context.recipe.cluster.on, out, fingerprint, rows))
    context.map("select", "parts", assign_part, tasks)
    path = run.refitted / "concepts.parquet"
    table = storage.read_table(path)
    sizes = np.zeros(len(table), np.int64)
    for part in context.parts:
        column = storage.read_table(run.part(run.refitted / "assignments", part.name), ["concept"])["concept"]
        sizes += np.bincount(column.to_numpy(), minlength=len(sizes))
    place = schema.CONCEPTS.get_field_index("n_assigned")
    table = table.set_column(place, "n_assigned", pa.array(sizes))
    storage.write_parquet(path, table, schema.CONCEPTS, storage.fingerprint(fitted, sizes.tolist()))
    return sizes
