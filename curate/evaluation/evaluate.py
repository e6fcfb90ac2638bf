"""`curate evaluate`: one model trained on what a run keeps, on random draws of the same size, and on everything."""

import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from curate.errors import CurateError, RunError, UsageError
from curate.evaluation import held_out, result
from curate.evaluation.choices import Subset, check_methods, choose, in_scratch, shown_name
from curate.evaluation.ground import Ground, check_judge, make_ground
from curate.evaluation.judges import BATCH
from curate.evaluation.request import JUDGES, Request
from curate.evaluation.result import Cell
from curate.execution.context import Progress, silent
from curate.pipeline import runner
from curate.process import cpu_count
from curate.recipe import Recipe
from curate.report.evaluation_figure import EVALUATION_VERSION
from curate.runs.run import StoredRun, open_run
from curate.runs.scratch import scratch_copy
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.heads.labels import device_of

__all__ = ["Evaluation", "evaluate_run"]

Subsets = Mapping[float | None, Sequence[Subset]]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    summary : what `curate evaluate --json` prints. cells : one row per model trained, with its metrics. rows : one row
    per row and subset (`share`, `subset`, `uid`, `weight`); those that judge are the subset `held out`, and all that
    could be trained on is `all rows`.
    """

    summary: dict[str, Any]
    cells: pl.DataFrame
    rows: pl.DataFrame


def evaluate_run(run: str | Path, request: Request, *, progress: Progress = silent) -> Evaluation:
    """Judge the subsets that a run keeps, or would keep; the run stays as it is.

    What is held out leaves the pool first, and the selection is repeated without it in a scratch copy of the run.
    Raises UsageError, before any model is trained, for what cannot be judged; RunError where nothing is decided yet.
    """
    stored = open_run(run)
    folder = stored.folder
    if folder.marker(folder.decisions) is None:
        raise RunError(f"{folder.where}: nothing is decided yet; first: curate run {folder.recipe}")
    recipe = check_methods(folder.where, request)
    check_judge(recipe, request)
    with scratch_copy(folder) as scratch, _told_of(folder.where, scratch.path), fixed_threads():
        with runner.opened(in_scratch(recipe, scratch.path), progress=progress) as context:
            ground = make_ground(runner.require_done(context, "filter"), request)
        subsets = _subsets(stored, scratch.path, recipe, request, ground, progress)
    with fixed_threads():
        cells = _train(ground, subsets, request, progress)
    return _found(stored, request, ground, subsets, cells)


@contextlib.contextmanager
def _told_of(run: str, scratch: Path) -> Iterator[None]:
    """Let errors of the scratch copy name the run."""
    try:
        yield
    except CurateError as error:
        raise type(error)(str(error).replace(str(scratch), run)) from error


# --- what is trained on ---------------------------------------------------------------------------------------


def _subsets(
    stored: StoredRun, scratch: Path, recipe: Recipe, request: Request, ground: Ground, progress: Progress
) -> Subsets:
    """Return the subsets of each share: random draws, a placebo, and what each method keeps; None has all rows."""
    uids = ground.rows.uids
    exclude = scratch.parent / "held-out.txt"
    exclude.write_text("".join(f"{uids[row]}\n" for row in np.flatnonzero(ground.out)), encoding="utf-8")
    size = int((~ground.out).sum())
    shares = request.keep or (_share_kept(stored, len(ground.rows)),)
    found: dict[float | None, Sequence[Subset]] = {None: [Subset(result.ALL, np.arange(len(ground.pool)))]}
    total, done = len(shares) * len(request.methods), 0
    for share in shares:
        chosen = []
        for method in request.methods:
            progress("select", done, total, "selections")
            frame = choose(stored.folder.where, scratch, method, round(share * size), exclude)
            chosen.append(
                _subset(ground, shown_name(method, recipe), frame, weighted=recipe.weight is not None)
            )
            done += 1
        n = round(share * len(ground.pool)) if request.keep else max(len(one.rows) for one in chosen)
        found[share] = [*_draws(ground, request, share, n), *chosen]
    progress("select", done, total, "selections")
    return found


def _share_kept(stored: StoredRun, usable: int) -> float:
    """Return the share of its usable rows that a run keeps; raises UsageError where it keeps none."""
    kept = stored.kept(lazy=True).select(pl.len()).collect().item()
    if not kept:
        raise UsageError(
            f"{stored.folder.where} keeps no row, so that there is nothing to judge; give --keep a share"
        )
    return float(kept / usable)


def _subset(ground: Ground, name: str, kept: pl.DataFrame, *, weighted: bool) -> Subset:
    """Return what a method keeps of the pool as places in it; raises UsageError where nothing can be trained on."""
    uids = pl.DataFrame(
        {"uid": [ground.rows.uids[row] for row in ground.pool], "place": np.arange(len(ground.pool))}
    )
    found = uids.join(kept, on="uid", how="inner", maintain_order="left")
    if len(found) < 2:
        raise UsageError(f"{name} keeps {len(found)} rows of the pool that can be trained on; keep more")
    weights = found["weight"].to_numpy().astype(np.float32) if weighted else None
    return Subset(name, found["place"].to_numpy().astype(np.int64), weights)


def _draws(ground: Ground, request: Request, share: float, n: int) -> list[Subset]:
    """Return random draws of `n` rows of the pool, the last of them as a placebo."""
    uids = [ground.rows.uids[row] for row in ground.pool]
    names = [*(result.draw_name(number) for number in range(request.draws)), result.PLACEBO]
    every = np.ones(len(uids), np.bool_)
    return [
        Subset(name, held_out.drawn(uids, every, n, request.seed, "evaluate", f"{share:.6f}", name))
        for name in names
    ]


# --- training -------------------------------------------------------------------------------------------------


def _train(ground: Ground, subsets: Subsets, request: Request, progress: Progress) -> list[Cell]:
    """Return a cell for each subset and seed: models are trained side by side, by one thread each."""
    jobs = [
        (share, subset, 1000 * request.seed + number)
        for share, some in subsets.items() for subset in some for number in range(request.seeds)
    ]  # fmt: skip
    found: dict[int, Cell] = {}
    progress("evaluate", 0, len(jobs), "models")
    many = cpu_count() if device_of(request.device, "--device") == "cpu" else 1
    pool = ThreadPoolExecutor(request.workers or many)
    try:
        todo = {pool.submit(_cell, ground, *job): place for place, job in enumerate(jobs)}
        for future in as_completed(todo):
            found[todo[future]] = future.result()
            progress("evaluate", len(found), len(jobs), "models")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for models at work
    return [found[place] for place in range(len(jobs))]


def _cell(ground: Ground, share: float | None, subset: Subset, seed: int) -> Cell:
    metrics = ground.judge.measure(subset.rows, seed, subset.weights)
    return Cell(share, subset.name, seed, len(subset.rows), metrics, subset.weights is not None)


# --- what came of it ------------------------------------------------------------------------------------------


def _found(
    stored: StoredRun, request: Request, ground: Ground, subsets: Subsets, cells: Sequence[Cell]
) -> Evaluation:
    here = ground.rows
    classes = (
        {}
        if ground.kind == "pairs"
        else {"classes": [here.names[one] for one in np.unique(here.labels[ground.pool])]}
    )
    summary = {
        "version": EVALUATION_VERSION,
        "run": stored.folder.where,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "decisions": stored.folder.fingerprint(stored.folder.decisions),
        "judge": ground.kind,
        "judged_by": JUDGES[ground.kind],
        "main": ground.judge.main,
        "held_out": ground.facts,
        **classes,
        "steps": request.steps,
        "batch": BATCH,
        "seeds": request.seeds,
        "notes": ground.notes,
        **result.summarise(cells, len(ground.pool), request.steps * BATCH),
    }
    summary["says"] = result.said(summary)
    columns = ("share", "name", "seed", "rows", "weighted")
    flat = [{name: getattr(cell, name) for name in columns} | dict(cell.metrics) for cell in cells]
    frame = pl.DataFrame(flat, schema_overrides={"share": pl.Float64})
    return Evaluation(summary, frame.rename({"name": "subset"}), _rows(ground, subsets))


def _rows(ground: Ground, subsets: Subsets) -> pl.DataFrame:
    """Return which rows were trained on, and which judged."""
    uids = pl.Series("uid", ground.rows.uids)

    def block(share: float | None, name: str, rows: Any, weights: Any) -> pl.DataFrame:  # noqa: ANN401  (arrays)
        return pl.DataFrame({"uid": uids[rows]}).select(
            pl.lit(share, pl.Float64).alias("share"), pl.lit(name).alias("subset"), "uid",
            pl.lit(1.0, pl.Float32).alias("weight") if weights is None else pl.Series("weight", weights),
        )  # fmt: skip

    blocks = [block(None, "held out", ground.held, None)]
    for share, some in subsets.items():
        blocks += [block(share, one.name, ground.pool[one.rows], one.weights) for one in some]
    return pl.concat(blocks)
