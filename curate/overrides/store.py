"""What people decided about the rows of a run: written down one after the other, taken back, and looked up.

A journal in the run folder (`overrides.jsonl`) has one line per action: decisions about one row or many, an undo, or a
redo. Nothing is ever taken out of it (but by `curate forget`), so that the history is whole; what holds now is what
the actions that stand leave, read in order: of two decisions about one thing of one row the later one holds.
"""

import getpass
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from curate.errors import UsageError
from curate.io import storage
from curate.io.journal import Journal
from curate.runs.folder import JOURNAL, RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CHOOSING", "KINDS", "LABELLING", "TABLE", "Decision", "Overrides", "user_name"]

#: The table that is made of the journal for who reads tables.
TABLE = "overrides.parquet"
#: What can be decided about a row, and which thing of the row it is about: later decisions about one thing take the place
#: of earlier ones. `reset` takes back all that was decided about the row.
KINDS: Mapping[str, str] = {
    "keep": "keep",
    "drop": "keep",
    "not_duplicate": "duplicate",
    "right_label": "label",
    "wrong_label": "label",
    "reset": "",
}
#: What the decisions of the pipeline hang on; the other kinds are about labels alone.
CHOOSING = ("keep", "drop", "not_duplicate")
#: About how labels are written.
LABELLING = ("right_label", "wrong_label")

log = logging.getLogger("curate")


class Decision(NamedTuple):
    """One decision about one row.

    what : one of `KINDS`. before : what the run says (the reason, the sample that it duplicates, or the label), in the
    column `from`. after : what it is to be, in the column `to`; of `wrong_label` the label that is right, where it is known.
    """

    uid: str
    what: str
    before: str | None = None
    after: str | None = None


#: What holds of a uid and a thing (keep, duplicate, label), and the action that it is from.
Holding = dict[tuple[str, str], tuple[Decision, dict[str, Any]]]


class Overrides:
    """The decisions of people about the rows of one run.

    Several processes may write at once, and read meanwhile; what a call wrote is on the disk when it returns. The same
    object reads on from where it was, so that asking often costs little.

    Parameters
    ----------
    folder : RunFolder
        The run.
    by : str, optional
        Who decides; the name of the user by default.
    """

    def __init__(self, folder: RunFolder, by: str | None = None) -> None:
        self.folder = folder
        self.by = user_name() if by is None else by
        self._journal = Journal(folder.path / JOURNAL)
        self._seen: tuple[list[dict[str, Any]], int] | None = None
        self._holding: Holding | None = None
        self._current: pl.DataFrame | None = None
        self._said_damaged = 0

    # Writing

    def decide(self, decisions: Iterable[Decision]) -> str | None:
        """Write down decisions as one action, which `undo` takes back as one.

        Parameters
        ----------
        decisions : iterable of Decision
            About one row or many; of two about the same thing of a row the later one holds.

        Returns
        -------
        str or None
            The name of the action; None if there was nothing to write.

        Raises
        ------
        UsageError
            For a kind of decision that there is not, or a row without a uid.
        """
        rows = [[one.uid, one.what, one.before, one.after] for one in map(_checked, decisions)]
        return self._append({"rows": rows}) if rows else None

    def undo(self, action: str | None = None) -> str | None:
        """Take an action back: by default the latest of this user that stands.

        Parameters
        ----------
        action : str, optional
            The name of an action, as `decide` returned it and `history` has it.

        Returns
        -------
        str or None
            The name of the action that was taken back; None if none stands.

        Raises
        ------
        UsageError
            If there is no such action, or it is taken back already.
        """
        return self._turn("undo", action)

    def redo(self, action: str | None = None) -> str | None:
        """Let an action that was taken back stand again, in its place: by default the one that this user took back last.

        After a new decision there is nothing to redo, unless the action is named.

        Parameters
        ----------
        action : str, optional
            The name of an action.

        Returns
        -------
        str or None
            The name of the action that stands again; None if there is none.

        Raises
        ------
        UsageError
            If there is no such action, or it stands.
        """
        return self._turn("redo", action)

    def _turn(self, turn: str, action: str | None) -> str | None:
        with self._journal.held() as descriptor:
            entries = self.actions()
            found = _to_turn(entries, turn, action, self.by)
            if found is not None:
                self._journal.append_held(descriptor, [self._signed({turn: found}, entries)])
        return found

    def _append(self, action: Mapping[str, Any]) -> str:
        with self._journal.held() as descriptor:
            signed = self._signed(action, self.actions())
            self._journal.append_held(descriptor, [signed])
        return str(signed["id"])

    def _signed(self, action: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return an action with its name, its time (never before that of an earlier one) and who did it."""
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        when = max(now, str(earlier[-1]["when"])) if earlier else now
        return {"id": secrets.token_hex(6), "when": when, "by": self.by, **action}

    # Reading

    def actions(self) -> list[dict[str, Any]]:
        """Return the actions as they stand in the journal, in order."""
        found = self._journal.entries()
        if self._journal.damaged > self._said_damaged:
            self._said_damaged = self._journal.damaged
            log.warning(
                "%s: %s lines are not as they were written and are passed over",
                self._journal.path, f"{self._said_damaged:,}",
            )  # fmt: skip
        return found

    def holding(self) -> Holding:
        """Return what holds now, with the action that it is from, by uid and thing (keep, duplicate, label)."""
        actions = self._read_on()
        if self._holding is None:
            self._holding = _holding(_standing(actions))
        return self._holding

    def _read_on(self) -> list[dict[str, Any]]:
        """Return the actions; what was made of fewer of them is forgotten."""
        actions = self.actions()
        if self._seen is None or self._seen[0] is not actions or self._seen[1] != len(actions):
            self._seen, self._holding, self._current = (actions, len(actions)), None, None
        return actions

    def current(self) -> "pl.DataFrame":
        """Return what holds now.

        Returns
        -------
        polars.DataFrame
            The columns uid, what, from, to, when and by: a row for each thing decided of a row, sorted by uid and what.
        """
        actions = self._read_on()
        if self._current is None:
            self._current = _current(_standing(actions))
        return self._current

    def history(self) -> "pl.DataFrame":
        """Return all that was ever decided, undone and redone, in order.

        Returns
        -------
        polars.DataFrame
            The columns of `current`, `action` (its name) and `holds` (whether it holds now). Of an undo or a redo, uid is
            null and `to` names the action.
        """
        import polars as pl

        state = self.holding()
        rows: list[tuple[Any, ...]] = []
        for action in self.actions():
            said = (action["when"], action["by"], action["id"])
            for row in action.get("rows", ()):
                one = Decision(*row)
                held = state.get((one.uid, KINDS[one.what]))
                rows.append((*one, *said, held is not None and held[0] == one and held[1] is action))
            rows += [
                (None, turn, None, action[turn], *said, None) for turn in ("undo", "redo") if turn in action
            ]
        return _frame(rows, {"action": pl.String(), "holds": pl.Boolean()})

    def fingerprint(self, kinds: Sequence[str]) -> str | None:
        """Return what stands for the decisions of these kinds that hold now; None if there are none.

        It depends on what was decided, not on when or by whom.
        """
        import polars as pl

        held = self.current().filter(pl.col("what").is_in(kinds))
        said = held.select("uid", "what", "to").rows()  # in the order of uid and what
        return storage.fingerprint("overrides", said) if said else None

    def write_table(self) -> None:
        """Write what holds now as a table in the run folder, `overrides.parquet`; none where nothing was ever decided."""
        path = self.folder.path / TABLE
        if self.actions():
            table = self.current().to_arrow()
            kind = table.schema
            storage.write_parquet(path, table, kind, storage.fingerprint("overrides", len(self.actions())))
        else:
            storage.remove(path)


def user_name() -> str:
    """Return the name of the user, as the system knows it."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def _checked(one: Decision) -> Decision:
    if one.what not in KINDS:
        raise UsageError(f"there is no decision {one.what!r}; there are {', '.join(KINDS)}")
    if not isinstance(one.uid, str) or not one.uid:
        raise UsageError(f"{one.what}: a uid is a text that is not empty, got {one.uid!r}")
    return one


def _standing(actions: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the actions that decide something and were not taken back, in order."""
    undone = _undone(actions)
    return [action for action in actions if action.get("rows") and action["id"] not in undone]


def _holding(actions: Iterable[dict[str, Any]]) -> Holding:
    """Return what actions that stand leave, by uid and thing."""
    state: Holding = {}
    for action in actions:
        for one in map(Decision._make, action["rows"]):
            if one.what == "reset":
                for thing in set(KINDS.values()):
                    state.pop((one.uid, thing), None)
            else:
                state[one.uid, KINDS[one.what]] = one, action
    return state


def _current(actions: Sequence[dict[str, Any]]) -> "pl.DataFrame":
    """Return what actions that stand leave, as a table: what `_holding` says, column by column because rows are many."""
    import numpy as np
    import polars as pl

    said = _frame([(None, None, None, None, one["when"], one["by"]) for one in actions], {})
    rows = said[np.repeat(np.arange(len(actions)), [len(one["rows"]) for one in actions])]
    columns = zip(*chain.from_iterable(one["rows"] for one in actions), strict=True)
    named = zip(("uid", "what", "from", "to"), columns, strict=False)  # without a row there are no columns
    rows = rows.with_columns(pl.Series(name, values, pl.String) for name, values in named)
    rows = rows.with_row_index("place").with_columns(
        thing=pl.col("what").replace_strict(KINDS, return_dtype=pl.String)
    )
    resets = rows.filter(pl.col("what") == "reset")
    if len(resets):
        last = resets.group_by("uid").agg(pl.col("place").max().alias("reset"))
        rows = rows.join(last, on="uid", how="left", maintain_order="left")
        rows = rows.filter(pl.col("reset").is_null() | (pl.col("place") > pl.col("reset"))).drop("reset")
    return rows.unique(["uid", "thing"], keep="last").drop("place", "thing").sort("uid", "what")


def _undone(actions: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the names of the actions that were taken back and do not stand again."""
    found: set[str] = set()
    for action in actions:
        if "undo" in action:
            found.add(action["undo"])
        found.discard(action.get("redo", ""))
    return found


def _to_turn(actions: Sequence[Mapping[str, Any]], turn: str, named: str | None, by: str) -> str | None:
    """Return the action that an undo or a redo is about; None if there is none."""
    undone = _undone(actions)
    if named is None:
        return _last_turned_by(actions, turn, undone, by)
    if not any(one["id"] == named and "rows" in one for one in actions):
        raise UsageError(f"{turn}: there is no action {named!r}; `history` has their names")
    if (named in undone) == (turn == "undo"):
        stands = "is taken back already" if turn == "undo" else "stands; there is nothing to redo"
        raise UsageError(f"{turn}: action {named!r} {stands}")
    return named


def _last_turned_by(actions: Sequence[Mapping[str, Any]], turn: str, undone: set[str], by: str) -> str | None:
    own = [one for one in actions if one["by"] == by]
    if turn == "undo":
        return next(
            (str(one["id"]) for one in reversed(own) if "rows" in one and one["id"] not in undone), None
        )
    for one in reversed(own):
        if "rows" in one:
            return None  # something new was decided since
        if one.get("undo") in undone:
            return str(one["undo"])
    return None


def _frame(rows: Sequence[tuple[Any, ...]], more: Mapping[str, Any]) -> "pl.DataFrame":
    import polars as pl

    texts = {name: pl.String() for name in ("uid", "what", "from", "to", "when", "by")}
    frame = pl.DataFrame(rows, schema={**texts, **more}, orient="row")
    when = pl.col("when").str.to_datetime(time_unit="us", time_zone="UTC")
    return frame.with_columns(when)
