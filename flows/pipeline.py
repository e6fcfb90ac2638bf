"""The flow `curate`: the pipeline of a recipe, each stage a Prefect task with retries and logs.

Run it once with ``python flows/pipeline.py RECIPE``, on a schedule with ``curate schedule``; its entrypoints are ``flows/pipeline.py:curate`` and
``curate.flows.pipeline:curate``. Tasks carry the run folder's path, never data.
"""

import contextlib
import json
import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Prefect reads its settings when it is first imported. These are defaults: the environment wins. No word
# leaves the machine, and a cold server, which needs 25 s on two cores, gets more than Prefect's 20 s.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

from prefect import Flow, Task, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging.loggers import flow_run_logger
from prefect.tasks import exponential_backoff

from curate.errors import CurateError, UsageError
from curate.execution.context import Context
from curate.flows import artifacts, notify
from curate.flows.report_links import report_link
from curate.io import storage
from curate.pipeline import runner
from curate.pipeline.stages.read import part_names
from curate.recipe import Recipe
from curate.recipe.loading import load_recipe, override, parse_recipe
from curate.runs.dated import commit, dated_runs, new_run
from curate.runs.folder import folder_of
from curate.runs.layout import STAGES, stages_until

__all__ = ["RETRIES", "Stage", "curate", "is_transient", "main"]

if TYPE_CHECKING:
    Stage = str
else:
    Stage = Literal[STAGES]

#: How often a stage is tried again, and the wait before the first time; it doubles each time, with jitter.
RETRIES = 3
RETRY_DELAY_S = 10.0
INTERRUPTED, TERMINATED = 130, 143


def _without_traceback(record: logging.LogRecord) -> bool:
    """Keep the line that Prefect says when its server is away, not the traceback below it."""
    record.exc_info = record.exc_text = None
    return True


def _is_worth_showing(record: logging.LogRecord) -> bool:
    """Return False for the error that Prefect makes in ending its watch of a server that was away."""
    return "_handle_polling_task_done" not in record.getMessage()


logging.getLogger("prefect.FlowRunSuspendingObserver").addFilter(_without_traceback)
logging.getLogger("asyncio").addFilter(_is_worth_showing)

#: What runs in this process work with, by run folder: a task gets the folder and finds the rest here.
_OPEN: dict[str, Context] = {}


def _tell_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell whom the recipe names that a run failed (Prefect calls this by these names)."""
    error = (state.message or "").removeprefix("Flow run encountered an exception: ")
    _tell("failure", flow, flow_run, state, error or state.name or "failed")


def _tell_drift(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Tell whom the recipe names that the data of a run drifted, where it did."""
    _tell("drift", flow, flow_run, state, None)


def _tell(
    occasion: str, flow: Flow[..., Any], flow_run: FlowRun, state: State[Any], error: str | None
) -> None:
    log = flow_run_logger(flow_run, flow)
    given = flow_run.parameters
    try:
        recipe = read_recipe(given["recipe"], given.get("overrides", ()))
    except (CurateError, KeyError, TypeError) as wrong:
        log.warning("nobody was told of the %s: the recipe cannot be read (%s)", occasion, wrong)
        return
    if recipe.notify is None or occasion not in recipe.notify.on:
        return
    since = flow_run.start_time.timestamp() if flow_run.start_time else None
    run = _newest(recipe.run) if given.get("dated") else folder_of(recipe).path
    said = notify.message(occasion, run, state.name or state.type.value, error, since=since)
    if occasion == "failure" or notify.drifted(said):
        for problem in notify.tell(recipe.notify, said):
            log.warning("%s", problem)


def _newest(root: str) -> Path:
    """Return the dated run that was worked on last; the root where there is none."""
    return next(reversed(dated_runs(root)), Path(root))


@flow(
    name="curate",
    description="Run a recipe; finished stages are not repeated.",
    on_failure=[_tell_failure],
    on_crashed=[_tell_failure],
    on_completion=[_tell_drift],
)
def curate(
    recipe: Path | dict[str, Any],
    overrides: tuple[str, ...] = (),
    until: Stage = "report",
    dated: bool = False,
    force: bool = False,
    refit: bool = False,
) -> dict[str, Any]:
    """Run the stages of a recipe up to `until`, holding the run folder's lock until the end.

    recipe : a YAML file, or the settings themselves. overrides : settings such as ``select.keep=0.2``. dated : make
    a new run in a dated folder below the run folder (`curate.runs.dated`), which is the latest after success. force,
    refit : as in `curate.pipeline.runner.run`. Returns the run folder, the stages that had work, and the counts (None
    before the last stage). Raises what the pipeline raises.
    """
    settings = read_recipe(recipe, overrides)
    root, stages = settings.run, stages_until(until)
    worked: list[str] = []
    with curate_log_to_run():
        settings = begin_dated(settings) if dated else settings
        shown = artifacts.Progress(stages)
        with runner.opened(settings, force=force, refit=refit, progress=shown) as context:
            _OPEN[settings.run] = context
            try:
                if "embed" in stages:
                    runner.check_model(context)
                for stage in stages:
                    shown.begin(stage)
                    worked += [stage] if stage_task(stage)(settings.run, stage) else []
                manifest = storage.read_json(context.run.manifest) if until == "report" else None
            finally:
                del _OPEN[settings.run]
        shown.end()
        if manifest is not None:
            artifacts.publish(context.run, manifest, report_link(context.run, settings, root))
            runner.check_limits(settings, manifest)
            if dated:
                commit(root, settings.run)
    return {"run": settings.run, "worked": worked, "counts": manifest and manifest["counts"]}


def begin_dated(recipe: Recipe) -> Recipe:
    """Return the recipe of a dated run: a new one, or an interrupted one to go on with."""
    runner.check_request(recipe)
    return recipe.model_copy(update={"run": str(new_run(recipe.run, partial(part_names, recipe)))})


def read_recipe(recipe: Path | Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    """Return a checked recipe from a file or from settings; raises UsageError or RecipeError."""
    if isinstance(recipe, Mapping):
        return parse_recipe(override(recipe, overrides))
    return load_recipe(recipe, overrides)


def stage_task(stage: Stage) -> Task[[str, Stage], bool]:
    """Return the task of a stage."""
    return _run_stage.with_options(
        name=stage,
        task_run_name=stage,
        retries=RETRIES,
        retry_delay_seconds=exponential_backoff(RETRY_DELAY_S),
        retry_jitter_factor=0.5,
        retry_condition_fn=_may_retry,
    )


@task(cache_policy=NO_CACHE)
def _run_stage(run: str, stage: Stage) -> bool:
    """Run one stage in the run folder `run`; return whether it had anything to do."""
    _OPEN[run], did = runner.run_stage(_OPEN[run], stage)
    return did


def _may_retry(_task: object, _run: TaskRun, state: State[Any]) -> bool:
    error = state.data
    return isinstance(error, Exception) and is_transient(error)


def is_transient(error: Exception) -> bool:
    """Whether the same stage may succeed when tried again.

    What curate refuses stays refused: a wrong recipe, a budget that does not fit. What the system refused
    may pass (a CurateError raised from an OSError), so may a worker that died (a bare CurateError), and
    whatever nobody expected.
    """
    if isinstance(error, UsageError):
        return False
    if isinstance(error, CurateError):
        return type(error) is CurateError or isinstance(error.__cause__, OSError)
    return True


@contextlib.contextmanager
def curate_log_to_run() -> Iterator[None]:
    """Send the lines of curate's logger to the log of the Prefect run while inside, and nowhere else."""
    logger = logging.getLogger("curate")
    handler, level, propagate = _RunHandler(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _RunHandler(logging.Handler):
    """Hands records to the logger of the current task; those of other threads to the flow's."""

    def __init__(self) -> None:
        super().__init__()
        self._flow_log = get_run_logger()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = get_run_logger()
        except MissingContextError:
            log = self._flow_log
        log.log(record.levelno, "%s", record.getMessage(), exc_info=record.exc_info)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the flow once from the command line; return the exit code that `curate run` would give."""
    parser = ArgumentParser(description="Run a recipe once as a Prefect flow.")
    parser.add_argument("recipe", type=Path, help="the recipe (YAML)")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help="override a setting")
    parser.add_argument("--until", choices=STAGES, default="report", help="stop after this stage")
    parser.add_argument("--dated", action="store_true", help="make a new run in a dated folder")
    parser.add_argument("--force", action="store_true", help="replace a run folder made from another source")
    parser.add_argument("--refit", action="store_true", help="fit the concepts anew")
    given = parser.parse_args(arguments)
    try:
        # A wrong recipe is told at once, not after a server has started.
        read_recipe(given.recipe, given.set)
        summary = curate(given.recipe, tuple(given.set), given.until, given.dated, given.force, given.refit)
    except CurateError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on where it stopped\n")
        return INTERRUPTED
    sys.stdout.write(json.dumps(summary, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    import signal

    # Prefect ends a terminated flow by the handler it found; the default one would leave its server behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    sys.exit(main())
