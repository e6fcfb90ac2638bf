"""Running a stage that has a time limit: in a process of its own, which is ended when the time is up."""

import logging
from pathlib import Path

from curate.errors import TimeLimitError
from curate.execution.context import PROCESS_BASE, Context
from curate.execution.engines.choice import make_engine
from curate.execution.engines.subprocess import Tell, call_within
from curate.execution.parts import with_parts
from curate.pipeline.order import STAGES
from curate.progress import duration_text
from curate.recipe import Recipe
from curate.runs.folder import RunFolder

__all__ = ["run_limited"]


def run_limited(context: Context, stage: str, seconds: float) -> bool:
    """Run a stage as `curate.pipeline.runner` does, for at most `seconds`; return whether anything was to do.

    Progress and log lines come through. Raises TimeLimitError when the time is up: parts that were finished by
    then are kept. Raises whatever the stage raises.
    """
    context.engine.close()  # its processes would only take memory; it starts new ones when it is needed
    # The waiting process takes memory too.
    recipe = context.recipe.model_copy(update={"memory": context.recipe.memory - PROCESS_BASE})

    def hear(message: object) -> None:
        if isinstance(message, logging.LogRecord):
            logging.getLogger(message.name).handle(message)
        elif isinstance(message, tuple):
            context.progress(*message)

    try:
        did, worked = call_within(
            seconds, _run_stage, recipe, str(context.run.path), stage, context.refit, hear=hear
        )
    except TimeoutError:
        limit = duration_text(seconds) if seconds >= 1 else f"{seconds:g} s"
        raise TimeLimitError(
            f"{stage} took longer than limits.time.{stage} allows ({limit}) and was ended; what it "
            f"finished is kept: run again to go on where it stopped, or raise the limit"
        ) from None
    context.worked.update(worked)
    return did


def _run_stage(
    tell: Tell, recipe: Recipe, run: str, stage: str, refit: bool
) -> tuple[bool, dict[str, dict[str, int]]]:
    """Run a stage in this process, the run folder being held by the parent."""
    logger = logging.getLogger("curate")
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToParent(tell))
    with make_engine(recipe) as engine:
        context = Context(
            recipe, RunFolder(Path(run)), engine, progress=lambda *said: tell(said), refit=refit
        )
        if stage != "read":
            context = with_parts(context)
        did = STAGES[stage](context).run()
    return did, context.worked


class _ToParent(logging.Handler):
    """Hands log records to the parent."""

    def __init__(self, tell: Tell) -> None:
        super().__init__()
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        plain = logging.makeLogRecord(
            record.__dict__ | {"msg": record.getMessage(), "args": None, "exc_info": None}
        )
        self._tell(plain)
