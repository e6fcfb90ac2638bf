"""The cluster engine: maps functions over items with Ray, on a cluster that is there or one it starts here.

Ray sends the work of a dead process or machine to another one. Everything else is as with `local`: the same
functions, results in order, a bounded number of items under way, and the errors of a function as they are.
"""

import contextlib
import logging
import secrets
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from curate.errors import CurateError
from curate.execution.engines.base import Place
from curate.execution.engines.ray_actors import Actors
from curate.execution.engines.ray_connect import Connection, connect, line_of
from curate.execution.engines.ray_worker import Failure, Holder, Site, work
from curate.io.remote.cache import hand_over, store_of

__all__ = ["RayEngine"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Held = TypeVar("Held")
#: What stands for a result of Ray that is to come, and the result: Ray knows its type, Python does not.
Reference = Any

log = logging.getLogger("curate")

#: How long the head of a cluster may not answer before the run ends.
SILENT_S = 20.0
#: Seconds that tasks which run get to end by themselves, before they are cancelled.
GRACE = 1.0
AGAIN = "run again to go on where it stopped"


class RayEngine:
    """Maps functions over items on a Ray cluster; connects when it is first asked for anything.

    address : `auto` or `host:port` of a cluster that is there; None starts one on this machine. workers : items
    worked on at a time; None is one for every processor of the cluster. here : processors for a cluster on
    this machine. retries : processes or machines that may die with one item. folder : the run folder, which all
    machines must see.
    """

    remote = True
    least_rows = 0

    def __init__(
        self, address: str | None, *, workers: int | None, here: int, retries: int, folder: Path
    ) -> None:
        self.here = here
        self._address, self._asked, self._retries = address, workers, retries
        self._folder = folder
        self._turn = 0
        self._witness = folder.absolute() / ".work" / f"cluster-{secrets.token_hex(4)}"
        self._connection: Connection | None = None
        self._site: Site | None = None
        self._heard = time.monotonic()

    @property
    def workers(self) -> int:
        """Items worked on at a time."""
        return self._asked or self._cpus

    @property
    def machine_workers(self) -> int:
        """Items worked on at a time on one machine, at most."""
        return min(self.workers, max(machine.cpus for machine in self._connect().machines))

    @property
    def gpus(self) -> int:
        """The number of GPUs of the cluster."""
        return sum(machine.gpus for machine in self._connect().machines)

    @property
    def _cpus(self) -> int:
        return sum(machine.cpus for machine in self._connect().machines)

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, parallel: bool = True
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item in order; at most two items a worker are under way."""
        if not parallel:
            yield from map(function, items)
            return
        there = self._connect()
        site = self._place()
        task = there.ray.remote(num_cpus=1, max_retries=self._retries, scheduling_strategy="SPREAD")(work)
        # Ray runs as much as there are processors: what is beyond them waits on the machines, ready to start.
        most = 2 * self.workers if self.workers >= self._cpus else self.workers
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(task.remote(site, there.ray.cloudpickle.dumps((function, item))))
                if len(waiting) >= most:
                    yield self._result(waiting.popleft())
            while waiting:
                yield self._result(waiting.popleft())
        finally:
            for reference in self._unfinished(list(waiting)):
                with contextlib.suppress(Exception):
                    there.ray.cancel(reference, force=True)
            self._follow()

    def _unfinished(self, waiting: list[Any]) -> list[Any]:
        """Return the tasks that are not done a moment later.

        A task that ends in the instant in which it is cancelled makes Ray abort the process that asked for it ("Tried to
        complete task that was not pending"; one such case is ray-project/ray#54798). So those about to end may do so.
        """
        if not waiting:
            return []
        with contextlib.suppress(Exception):
            return list(self._connect().ray.wait(waiting, num_returns=len(waiting), timeout=GRACE)[1])
        return waiting

    def hold(
        self,
        make: Callable[[Place], AbstractContextManager[Held]],
        function: Callable[[Held, Item], Result],
        items: Iterable[Item],
    ) -> Iterator[Result]:
        """Yield ``function(held, item)`` for each item in order; each GPU (else each machine) holds one."""
        there = self._connect()
        count, place = self._places()
        holder = there.ray.remote(
            num_cpus=place.cores, num_gpus=int(bool(place.gpu)), max_restarts=0, scheduling_strategy="SPREAD"
        )(Holder)
        site = self._place(place.cores or 1)
        made = there.ray.cloudpickle.dumps(make)
        actors = Actors(
            there.ray, lambda: holder.remote(site, made, place),
            count=count, retries=self._retries, watch=self._watch,
        )  # fmt: skip
        try:
            with self._explained():
                yield from actors.map(lambda item: there.ray.cloudpickle.dumps((function, item)), items)  # type: ignore[misc]
        finally:
            with contextlib.suppress(Exception):
                actors.close()
            self._follow()

    def _follow(self) -> None:
        """Let the copy of a run at a URL have what the workers have done; theirs do so before their next work."""
        self._turn += 1
        if (store := store_of(self._folder)) is not None:
            store.refresh()

    def _places(self) -> tuple[int, Place]:
        """Return how many hold a model, and what each of them has."""
        machines = self._connect().machines
        with_gpu = [machine for machine in machines if machine.gpus]
        if with_gpu:
            cores = max(1, min(machine.cpus // machine.gpus for machine in with_gpu))
            return min(self.gpus, self.workers), Place(gpu=True, cores=cores)
        cores = min(self.workers, *(machine.cpus for machine in machines if machine.cpus))
        fit = sum(machine.cpus // cores for machine in machines)
        return max(1, min(fit, self.workers // cores)), Place(gpu=False, cores=cores)

    def _result(self, reference: Reference) -> Reference:
        """Return what a task gave, or raise what it raised."""
        there = self._connect()
        with self._explained():
            self._watch()
            while not there.ray.wait([reference], timeout=1.0)[0]:
                self._watch()
            value = there.ray.get(reference)
        if isinstance(value, Failure):
            value.raise_()
        return value

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Ray says of dead processes, machines and clusters into one line."""
        said = self._connect().ray.exceptions
        try:
            yield
        except (said.WorkerCrashedError, said.NodeDiedError, said.OutOfMemoryError) as error:
            raise CurateError(
                f"engine ray: {self._retries + 1} worker processes died with the same piece of work ({line_of(error)}); "
                f"{AGAIN}, with fewer workers or a smaller memory setting"
            ) from error
        except (said.LocalRayletDiedError, said.RaySystemError) as error:
            self._gone(line_of(error))
        except said.RayTaskError as error:
            raise CurateError(
                f"engine ray: a worker cannot run curate ({str(error).strip().splitlines()[-1]}); "
                "install the same curate on all machines of the cluster"
            ) from error
        except said.RayError as error:
            raise CurateError(f"engine ray: {line_of(error)}; {AGAIN}") from error

    def _watch(self) -> None:
        """Raise CurateError if the head of the cluster has not answered for a while."""
        there, now = self._connect(), time.monotonic()
        if there.head is None or now - self._heard < SILENT_S / 4:
            return
        try:
            socket.create_connection(there.head, timeout=2.0).close()
            self._heard = time.monotonic()
        except OSError as error:
            if now - self._heard > SILENT_S:
                self._gone(f"{there.head[0]}:{there.head[1]} does not answer: {error}")
            time.sleep(0.5)

    def _gone(self, why: str) -> NoReturn:
        raise CurateError(f"engine ray: the cluster is gone ({why}); finished parts are kept: {AGAIN}")

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = connect(self._address, self._asked or self.here)
            self._heard = time.monotonic()
            log.info(
                "engine ray: machines %s, workers %s, GPUs %s",
                len(self._connection.machines),
                self.workers,
                self.gpus,
            )
        return self._connection

    def _place(self, threads: int = 1) -> Site:
        """Return what workers need to be like this process, and leave a witness that they must see."""
        if self._site is None:
            token = secrets.token_hex(16)
            self._witness.parent.mkdir(parents=True, exist_ok=True)
            self._witness.write_text(token, encoding="utf-8")
            path = tuple(str(Path(entry).absolute()) for entry in sys.path)
            home = hand_over(self._folder)
            self._site = Site(str(Path.cwd()), path, str(self._witness), token, threads, home)
        return replace(self._site, threads=threads, turn=self._turn if self._site.home else 0)

    def close(self) -> None:
        """Do nothing: Ray ends idle workers itself."""

    def __enter__(self) -> Self:
        """Return the engine; it connects when it is first asked for anything."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; one that was started here ends."""
        there, self._connection = self._connection, None
        with contextlib.suppress(OSError):
            self._witness.unlink(missing_ok=True)
        if there is not None and there.own:
            there.ray.shutdown()
