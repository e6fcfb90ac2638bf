"""Serving the flow on a schedule, from this process, for as long as it lives."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

# The flow's module comes first: it says what Prefect's settings are where the environment says nothing.
from curate.flows.pipeline import curate  # isort: skip

import pydantic
from prefect.client.orchestration import get_client
from prefect.client.schemas.schedules import CronSchedule
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.types.entrypoint import EntrypointType

from curate.errors import CurateError, UsageError
from curate.flows import reports, server
from curate.flows.runner import Overlap, ScheduleRunner
from curate.recipe import Recipe

__all__ = ["check_schedule", "known_server", "own_server", "serve", "shown_reports"]


def check_schedule(cron: str, timezone: str, name: str) -> None:
    """Raise UsageError for a time, a zone or a name that Prefect would not take."""
    if len(cron.split()) != 5:
        raise UsageError(
            f"--cron must have five fields (minute hour day month weekday), such as '0 3 * * *', got {cron!r}"
        )
    try:
        CronSchedule(cron=cron, timezone=timezone)
    except pydantic.ValidationError as error:
        if any("timezone" in item["loc"] for item in error.errors()):
            raise UsageError(f"--timezone must be a name such as Europe/Berlin, got {timezone!r}") from None
        raise UsageError(
            f"--cron must be a time as cron writes it, such as '0 3 * * *', got {cron!r}"
        ) from None
    if not name or set(name) & set("/%"):
        raise UsageError(f"--name must be some text without / and %, got {name!r}")


@contextlib.contextmanager
def known_server() -> Iterator[server.Server]:
    """Give the server that PREFECT_API_URL names.

    Raises UsageError where it names none, CurateError where that one does not answer.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise UsageError(
            "a schedule needs a Prefect server: set PREFECT_API_URL (of yours, such as http://127.0.0.1:4200/api), "
            "or give --start-server to start one on this machine"
        )
    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        said = str(problem) or type(problem).__name__
        raise CurateError(
            f"the Prefect server of PREFECT_API_URL={url} does not answer ({said}); start it, or unset "
            "PREFECT_API_URL and use --start-server"
        )
    yield server.Server(url)


@contextlib.contextmanager
def own_server(port: int) -> Iterator[server.Server]:
    """Start a server on this machine, give it, and end it at the end.

    Raises UsageError where PREFECT_API_URL names another, or the port is taken.
    """
    if known := PREFECT_API_URL.value():
        raise UsageError(
            f"--start-server starts a Prefect server, but PREFECT_API_URL names one ({known}); use one of the two"
        )
    with server.started(port, Path(PREFECT_HOME.value()) / "curate-server.log") as own:
        # The environment is for the processes of runs, the settings for this one.
        os.environ["PREFECT_API_URL"] = own.url
        try:
            with temporary_settings({PREFECT_API_URL: own.url}):
                yield own
        finally:
            del os.environ["PREFECT_API_URL"]


@contextlib.contextmanager
def shown_reports(recipe: Recipe, port: int | None, say: Callable[[str], None]) -> Iterator[None]:
    """Show the reports of a schedule to browsers on this machine while inside.

    port : the port; 0 for none. Without one it is the usual one, and none where a web server shows them (`report.url`).
    """
    if port == 0 or (port is None and recipe.report.url is not None):
        yield
        return
    with reports.shown(Path(recipe.run), port, Path(PREFECT_HOME.value()) / "curate-reports-key", say) as at:
        if at is not None:
            say(f"reports are shown at {at} on this machine, to those who have their links (in Prefect)")
        yield


def serve(
    recipe: Path,
    overrides: Sequence[str],
    *,
    cron: str,
    timezone: str,
    name: str,
    at: server.Server,
    overlap: Overlap = "wait",
    patience_s: float = 300.0,
    say: Callable[[str], None],
) -> None:
    """Run a recipe at the times of `cron`, each in a process of its own and a dated folder, until interrupted.

    at : the server that knows the schedule. overlap : whether a run that somebody starts by hand while another
    works waits or is cancelled. patience_s : how long the server may be away. say : is given a line whenever
    something happens that somebody should know. The schedule pauses when this ends, and goes on when it is called
    again under the same name. Raises CurateError where the server stays away.
    """
    deployment = curate.to_deployment(
        name,
        schedule=Cron(cron, timezone=timezone),
        parameters={"recipe": str(recipe.resolve()), "overrides": list(overrides), "dated": True},
        # No limit of the server's: it loses count of who holds it when it is started again. The runner sees to it.
        concurrency_limit=None,
        paused=False,
        description=f"{recipe}: {cron} ({timezone})",
        version=metadata.version("curate"),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Named, so that a deployment of that name which a worker had before is taken from its work pool.
    deployment.work_pool_name = deployment.work_queue_name = None
    # Not `curate.serve()`: that sends a pickled copy of the flow to each process; this starts the entrypoint anew.
    runner = ScheduleRunner(deployment, at, overlap=overlap, patience_s=patience_s, say=say)
    try:
        asyncio.run(runner.start())
    except KeyboardInterrupt:
        return
    except BaseExceptionGroup:
        if runner.problem is None:
            raise
    if runner.problem is not None:
        raise runner.problem
