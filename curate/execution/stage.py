"""What all stages do alike, so that a stage only says what is its own.

A stage is skipped when its mark carries the fingerprint of what it would be made from. Otherwise its mark is taken
away, the parts that are not there yet are made on the engine, what belongs to no part any more is removed, and the
mark is set with what the stage noted about itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from curate.execution.context import Context, Part, reuse_or_remove
from curate.io import storage

__all__ = ["Stage"]


class Stage:
    """One stage of one run; a subclass is the stage, an instance works once.

    name : the stage, as in `curate.runs.layout`. version : goes up when output changes. hashed_as : the word in
    front of the fingerprint, where it is not the name. every_part : `part` is called for parts that are there too,
    because `finish` needs the result of each.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    hashed_as: ClassVar[str | None] = None
    every_part: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context, self.recipe, self.run_folder = context, context.recipe, context.run

    # --- what a stage says ---------------------------------------------------------------------------

    def inputs(self) -> Sequence[object]:
        """Return all that the result depends on, as plain values; they make the fingerprint.

        Every stage defines it that does not define `run`, as scores do, of which each family has a mark of its own.
        """
        raise NotImplementedError

    def prepare(self) -> None:
        """Find out what all parts share; it is called after the mark is taken away."""

    def tasks(self) -> Sequence[Any] | None:
        """Return a task (`out`, `fingerprint`) for each of `parts`, in order; None where a stage has no parts."""
        return None

    @property
    def part(self) -> Callable[[Any], Any]:
        """The function that makes one part from its task, in any process; a stage with `tasks` has one."""
        raise NotImplementedError

    def finish(self, results: Sequence[Any]) -> Mapping[str, object]:
        """Return what the stage notes about itself; results : of `part`, for the parts that were made."""
        return {}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say what went in and out."""

    # --- what may differ -----------------------------------------------------------------------------

    @property
    def parts(self) -> Sequence[Part]:
        """The parts of the source that the stage works on."""
        return self.context.parts

    @property
    def marked(self) -> tuple[Path, ...]:
        """The folders with the mark of the stage: set in this order, taken away in the opposite one."""
        return (self.run_folder.stage(self.name),)

    @property
    def tables(self) -> tuple[Path, ...]:
        """The folders with one table per part, from which those of parts that are gone are removed."""
        return self.marked

    @property
    def scratch(self) -> Path | None:
        """The folder that is removed when the stage is done."""
        return None

    @cached_property
    def fingerprint(self) -> str:
        """What the stage is made from, and how."""
        return storage.fingerprint(self.hashed_as or self.name, self.version, *self.inputs())

    def made_from(self) -> str:
        """Return what its mark says when it is done: `fingerprint`, unless some of it could not be made."""
        return self.fingerprint

    def is_done(self) -> bool:
        """Whether the stage is marked with its fingerprint, and its files are what the mark says."""
        return all(self.run_folder.is_done(folder, self.made_from()) for folder in self.marked)

    def is_made(self, task: Any) -> bool:  # noqa: ANN401  (any task, or what overrides this takes)
        """Whether the table of a part is there as it would be made now."""
        return reuse_or_remove(task.out, task.fingerprint)

    def make(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Make parts on the engine; return what `part` returned for each."""
        return self.context.map(self.name, "parts", self.part, tasks)

    def unmark(self) -> None:
        """Take the mark away, before anything changes."""
        for folder in reversed(self.marked):
            self.run_folder.unmark(folder)

    # --- the order of it all -------------------------------------------------------------------------

    def run(self) -> bool:
        """Do what there is to do; return whether there was anything."""
        if self.is_done():
            return False
        stats = self.work()
        self.log(stats)
        return True

    def work(self) -> Mapping[str, object]:
        """Make what is not there, and mark it; return what the stage noted."""
        self.unmark()
        self.prepare()
        stats = self.finish(self._make_parts())
        for folder in self.tables:
            self.run_folder.keep_only(folder, [part.name for part in self.parts])
        for folder in self.marked:
            self.run_folder.mark(folder, self.made_from(), stats)
        if self.scratch is not None:
            storage.remove(self.scratch)
        return stats

    def _make_parts(self) -> Sequence[Any]:
        tasks = self.tasks()
        if tasks is None:
            return ()
        if self.every_part:
            return self.make(tasks)
        made = [self.is_made(task) for task in tasks]
        rows = [part.rows for part, there in zip(self.parts, made, strict=True) if not there]
        self.note_worked(parts=len(rows), rows=sum(rows))
        return self.make([task for task, there in zip(tasks, made, strict=True) if not there])

    def note_worked(self, **amounts: int) -> None:
        """Note how much was made anew, for `times` of the manifest."""
        self.context.worked.setdefault(self.name, {}).update(amounts)
