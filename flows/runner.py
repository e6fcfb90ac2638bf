"""What runs a schedule: it polls the server, starts what is due, and outlives a server that is away for a while.

Prefect's own loops give up after three polls that failed, with tracebacks and five minutes of waiting, and hand what
overlaps to a limit that the server forgets when it is started again. So the loops are here, around Prefect's parts
that start, watch and end the processes of runs; these are private to it, which the pin of its version allows.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal
from uuid import UUID

import anyio
import httpx
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runner import Runner
from prefect.states import Cancelled

from curate.errors import CurateError
from curate.flows import server
from curate.progress import duration_text

__all__ = ["Overlap", "ScheduleRunner"]

#: What becomes of a run that somebody starts by hand while another works.
Overlap = Literal["wait", "cancel"]
#: How often it is looked whether the server is there, and how long it is away before a line says so.
WATCH_S, QUIET_S = 1.0, 10.0


class ScheduleRunner(Runner):
    """Runs one deployment, one run at a time.

    problem : why it ended by itself, if it did.
    """

    def __init__(
        self,
        deployment: RunnerDeployment,
        at: server.Server,
        *,
        overlap: Overlap,
        patience_s: float,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name=deployment.name, limit=1)
        self.problem: CurateError | None = None
        self._deployment, self._at, self._overlap = deployment, at, overlap
        self._patience_s, self._say = patience_s, say
        self._waiting: set[UUID] = set()
        self._answered, self._refused = time.monotonic(), ""

    async def start(self, run_once: bool = False, webserver: bool | None = None) -> None:
        """Serve until interrupted; raises (in groups) what ended it, which is in `problem`."""
        signal.signal(signal.SIGTERM, self.handle_sigterm)
        async with anyio.create_task_group() as beginning:
            beginning.start_soon(self._watch)
            await self._register_once_up()
            beginning.cancel_scope.cancel()
        async with self:
            self._take_over_cancelling()
            async with self._loops_task_group:
                self._loops_task_group.start_soon(self._watch)
                self._loops_task_group.start_soon(self._poll_for_ever)

    def handle_sigterm(self, *_: object, **_more: object) -> None:
        """Do what Ctrl-C does: Prefect's own handler forgets to wait, and leaves the schedule going."""
        signal.raise_signal(signal.SIGINT)

    async def _register_once_up(self) -> None:
        """Make the deployment known; `_watch` ends this where no server answers."""
        while not await self._succeeds(self._register):
            await anyio.sleep(WATCH_S)

    async def _register(self) -> None:
        """Make the deployment known to the server, in place of one of its name."""
        self._deployment_registry._deployment_ids.clear()
        await self.aadd_deployment(self._deployment)

    # --- the server

    async def _watch(self) -> None:
        """Keep the server there; end everything once it stays away."""
        told: float | None = None
        while True:
            answers = await anyio.to_thread.run_sync(server.is_up, self._at.url)
            away_s = time.monotonic() - self._answered
            try:
                line = await anyio.to_thread.run_sync(partial(self._at.keep, answers=answers))
                # Between two polls nobody asks it anything.
                if away_s > self._patience_s + self.query_seconds:
                    raise CurateError(
                        f"the Prefect server {self._at.url} has not answered for {duration_text(away_s)}"
                        f"{self._refused}: no run begins, and the schedule has ended; see to the server, and give "
                        "the same command again"
                    )
            except CurateError as problem:
                self.problem, self.pause_on_shutdown = problem, False
                raise
            if line:
                self._say(line)
            if told is None and away_s > QUIET_S + self.query_seconds:
                told = self._answered
                self._say(
                    f"the Prefect server {self._at.url} does not answer{self._refused}; what runs goes on, and the "
                    f"schedule ends if it stays away for {duration_text(self._patience_s)}"
                )
            elif told is not None and told != self._answered:
                told = None
                self._say("the Prefect server answers again")
            await anyio.sleep(WATCH_S)

    async def _poll_for_ever(self) -> None:
        while True:
            await anyio.sleep(self.query_seconds if await self._succeeds(self._poll) else WATCH_S)

    async def _succeeds(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do what needs the server; return False, with the reason noted, where it is away or refuses."""
        # A request to a server that is away is tried for a minute: look first.
        if not await anyio.to_thread.run_sync(server.is_up, self._at.url):
            return False
        try:
            await work()
        except (httpx.HTTPError, PrefectException, OSError) as error:
            self._refused = f" ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            return False
        self._answered, self._refused = time.monotonic(), ""
        return True

    async def _pause_schedules(self) -> None:
        """Pause the schedule on the server, if that is there."""
        if await anyio.to_thread.run_sync(server.is_up, self._at.url):
            for known in self._deployment_registry.get_deployment_ids():
                await self._client.pause_deployment(known)
        else:
            self._say(
                f"the Prefect server {self._at.url} does not answer, and could not be told of the pause"
            )

    # --- runs

    async def _poll(self) -> None:
        """Start the run that is due; see to those that somebody cancelled, and to those that would overlap."""
        (known,) = self._deployment_registry.get_deployment_ids()
        try:
            await self._client.read_deployment(known)
        except ObjectNotFound:
            self._say(f"the Prefect server does not know '{self.name}' any more; it is registered again")
            await self._register()
        observer = self._cancelling_observer
        if observer is not None and observer._consumer_task is None:
            check: Callable[[], Awaitable[None]] = observer._check_for_cancelled_flow_runs
            await check()
        poller = self._scheduled_run_poller
        for run in sorted(await poller._get_scheduled_flow_runs(), key=_begins):
            if run.id in poller._submitting_flow_run_ids:
                continue
            by_hand = not run.auto_scheduled or run.run_count > 0
            if not poller._submitting_flow_run_ids:
                self._waiting.discard(run.id)
                await poller._submit_scheduled_flow_runs([run], self._runs_task_group)
            elif by_hand and self._overlap == "wait":
                if run.id not in self._waiting:
                    self._waiting.add(run.id)
                    self._say(f"run '{run.name}' waits until the run under way has ended")
            else:
                await self._leave_out(run, by_hand=by_hand)

    async def _leave_out(self, run: FlowRun, *, by_hand: bool) -> None:
        """Cancel a run that would overlap, and say so here and in its state."""
        why = "another run of this schedule is under way"
        if by_hand:
            why += "; start it again after that, or serve with --overlap wait"
        await self._client.set_flow_run_state(run.id, Cancelled(message=f"Left out: {why}."), force=True)
        self._say(f"run '{run.name}' is left out: {why}")

    def _take_over_cancelling(self) -> None:
        """Look for cancelled runs in `_poll` once the stream of events broke, not in a loop that gives up."""
        observer = self._cancelling_observer
        if observer is None:
            return
        if observer._consumer_task is not None:
            observer._consumer_task.remove_done_callback(observer._start_polling_task)
            observer._consumer_task.add_done_callback(self._no_more_events)
        elif observer._polling_task is not None:
            observer._polling_task.remove_done_callback(observer._handle_polling_task_done)
            observer._polling_task.cancel()

    def _no_more_events(self, task: "asyncio.Task[None]") -> None:
        """Forget a stream of events that broke: Python and Prefect would show its traceback at the end."""
        if not task.cancelled() and self._cancelling_observer is not None:
            task.exception()
            self._cancelling_observer._consumer_task = None


def _begins(run: FlowRun) -> tuple[bool, Any]:
    """Return what puts runs in the order of their times."""
    when = run.next_scheduled_start_time
    return when is None, when
