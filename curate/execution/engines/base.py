"""What stages ask of an engine: to map a function over items, and to do so beside something held (a model)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeVar

__all__ = ["Engine", "Place"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Held = TypeVar("Held")


@dataclass(frozen=True)
class Place:
    """Where something is held: whether a GPU is at hand, and how many processors; None is as many as there are."""

    gpu: bool | None = None
    cores: int | None = None


class Engine(Protocol):
    """Maps functions over items, each in one of `workers` processes; the results do not depend on which engine.

    Functions and items must be picklable. An item may be worked on twice (where a process or a machine died), so a
    function writes its files whole and under a name that depends on the item alone.
    """

    @property
    def workers(self) -> int:
        """Items worked on at a time."""

    @property
    def machine_workers(self) -> int:
        """Items worked on at a time on one machine, at most; they share `memory`."""

    @property
    def here(self) -> int:
        """Processors that the calling process may use."""

    @property
    def least_rows(self) -> int:
        """Rows from which on work goes to other processes: fewer are done here before a process has started."""

    @property
    def remote(self) -> bool:
        """Whether work may be done on other machines."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], *, parallel: bool = True
    ) -> Iterator[Result]:
        """Yield ``function(item)`` for each item in order; at most two items a worker are under way.

        parallel : False works in the calling process.
        """

    def hold(
        self,
        make: Callable[[Place], AbstractContextManager[Held]],
        function: Callable[[Held, Item], Result],
        items: Iterable[Item],
    ) -> Iterator[Result]:
        """Yield ``function(held, item)`` for each item in order; `make` gives what is held, once per holder."""

    def close(self) -> None:
        """Let go of idle workers and their memory; the next map starts them again."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
