"""`Run.overrides`: what people decided about the rows of a run, to be looked at and added to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError
from curate.overrides.store import KINDS, Overrides
from curate.runs.run import StoredRun

if TYPE_CHECKING:
    import polars as pl

    from curate.analysis.deciding import Which

__all__ = ["RunOverrides"]


class RunOverrides:
    """Decisions of people about the rows of a run: the next `select` respects them.

    Each call writes one action, which is on the disk when it returns, and which `undo` takes back as one. A row that is
    kept is kept whatever a condition says; one that is dropped reaches no selection; one that is no duplicate competes
    like any other. Labels are written with the shards.
    """

    def __init__(self, run: StoredRun, by: str | None = None) -> None:
        self._run = run
        self._store = Overrides(run.folder, by)

    def __repr__(self) -> str:
        """Return how many decisions hold."""
        return f"RunOverrides({len(self.current()):,} decisions)"

    def by(self, name: str) -> "RunOverrides":
        """Return the same decisions, for someone of this name to decide."""
        return RunOverrides(self._run, name)

    def current(self) -> "pl.DataFrame":
        """Return what holds now.

        Returns
        -------
        polars.DataFrame
            The columns uid, what, from, to, when and by: a row for each thing decided of a row, sorted by uid and what.
        """
        return self._store.current()

    def history(self) -> "pl.DataFrame":
        """Return all that was ever decided, undone and redone, in order.

        Returns
        -------
        polars.DataFrame
            The columns of `current`, `action` (its name) and `holds` (whether it holds now).
        """
        return self._store.history()

    def keep(self, *uids: str) -> str | None:
        """Keep rows, whatever conditions, copies and budgets say; return the name of the action."""
        return self._decide("keep", uids)

    def drop(self, *uids: str) -> str | None:
        """Drop rows; their near-duplicates stay out too. Return the name of the action."""
        return self._decide("drop", uids)

    def not_duplicate(self, *uids: str) -> str | None:
        """Say that rows are no near-duplicates of what dedup found; return the name of the action."""
        return self._decide("not_duplicate", uids)

    def right_label(self, *uids: str) -> str | None:
        """Say that the labels of rows are right; return the name of the action."""
        return self._decide("right_label", uids)

    def wrong_label(self, *uids: str, label: str | None = None) -> str | None:
        """Say that the labels of rows are wrong, and which is right where that is known; return the name of the action."""
        return self._decide("wrong_label", uids, label)

    def reset(self, *uids: str) -> str | None:
        """Take back all that was decided about rows; return the name of the action."""
        return self._decide("reset", uids)

    def decide(self, uids: Mapping[str, Sequence[str]], *, label: str | None = None) -> dict[str, int]:
        """Decide several things at once, as one action: all of it, or nothing where a row is not in the run.

        Parameters
        ----------
        uids : mapping of str to sequence of str
            The rows of each decision, by uid, file name, path or key: keep, drop, not_duplicate, right_label, wrong_label or reset.
        label : str, optional
            The right label of those whose label is wrong.

        Returns
        -------
        dict of str to int
            How many rows were decided about, by decision.

        Raises
        ------
        UsageError
            For a row that the run has not, or of which two things are said that cannot both hold.
        """
        uids = self._resolved(uids)
        said: dict[tuple[str, str], str] = {}
        for what, rows in uids.items():
            for uid in rows:
                for thing in _things(what):
                    if said.setdefault((uid, thing), what) != what:
                        raise UsageError(
                            f"{uid} cannot be both {said[uid, thing]} and {what}; say one of them"
                        )
        self._write([(what, uid, label) for what, rows in uids.items() for uid in rows])
        return {what: len(rows) for what, rows in uids.items()}

    def undo(self, action: str | None = None) -> str | None:
        """Take back an action (by default your latest that stands); return its name, None if there is none."""
        return self._store.undo(action)

    def redo(self, action: str | None = None) -> str | None:
        """Let an action stand again (by default the one you took back last); return its name, None if there is none."""
        return self._store.redo(action)

    def sheet(self, rows: "Which" = "decided") -> "pl.DataFrame":
        """Return samples with what was decided about them.

        Parameters
        ----------
        rows : {"decided", "kept", "dropped", "all"}
            Which samples.

        Returns
        -------
        polars.DataFrame
            The columns of `current`, then key, shard, row, caption, label, keep, reason, duplicate_of and concept.
        """
        from curate.analysis.deciding import sheet

        return sheet(self._run, rows)

    def export_file(self, path: str | Path, format: str = "csv", *, rows: "Which | None" = None) -> int:
        """Write samples and decisions for another tool.

        Parameters
        ----------
        path : str or Path
            The file to write.
        format : str
            csv, parquet, fiftyone, label-studio or argilla.
        rows : {"decided", "kept", "dropped", "all"}, optional
            Which samples: by default those decided about in tables, all of them in the formats of tools.

        Returns
        -------
        int
            How many rows were written.
        """
        from curate.analysis.deciding import export_decisions

        return export_decisions(self._run, Path(path), format, rows)

    def import_file(self, path: str | Path, format: str = "csv") -> int:
        """Take the decisions of a file that differ from what holds, as one action.

        Parameters
        ----------
        path : str or Path
            What `export_file` wrote, edited by hand or in the other tool.
        format : str
            csv, parquet, fiftyone, label-studio or argilla.

        Returns
        -------
        int
            How many decisions were taken.
        """
        from curate.analysis.deciding import import_decisions

        return import_decisions(self._run, Path(path), format, self._store.by)

    def _decide(self, what: str, uids: Sequence[str], label: str | None = None) -> str | None:
        return self._write([(what, uid, label) for uid in self._resolved({what: uids})[what]])

    def _resolved(self, names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Return the uids of samples that are named by uid, file name, path or key."""
        from curate.analysis.deciding import uids_named

        texts = {what: [str(name) for name in of] for what, of in names.items()}
        found = uids_named(self._run, (name for of in texts.values() for name in of))
        return {what: [found[name] for name in of] for what, of in texts.items()}

    def _write(self, decisions: Sequence[tuple[str, str, str | None]]) -> str | None:
        from curate.analysis.deciding import decide
        from curate.overrides.formats.entry import Entry

        entries = (Entry(row, uid, what, label) for row, (what, uid, label) in enumerate(decisions, 1))
        return decide(self._run, entries, self._store.by)


def _things(what: str) -> tuple[str, ...]:
    """Return the things of a row that a decision is about; a reset is about all of them."""
    return tuple(set(KINDS.values())) if what == "reset" else (KINDS.get(what, ""),)
