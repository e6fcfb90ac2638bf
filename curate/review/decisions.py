"""What people decide on the page: written into the store of the run at once, and known to the table of rows."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import UsageError
from curate.overrides.store import KINDS, Decision, Overrides, user_name
from curate.review.table import RowTable
from curate.runs.folder import RunFolder

__all__ = ["MOST", "Decisions"]

#: The most rows that one decision is about.
MOST = 10_000
#: Characters of a label, and of a name.
LABEL_CHARACTERS, NAME_CHARACTERS = 300, 80
#: What a row says already of the thing that is decided.
BEFORE = {"keep": "reason", "duplicate": "duplicate_of", "label": "label"}


class Decisions:
    """The decisions about a run, by whom they are made.

    Other people, and other commands, may write decisions meanwhile: `follow` reads on.
    """

    def __init__(self, folder: RunFolder, table: RowTable) -> None:
        self._folder, self._table = folder, table
        self._store = Overrides(folder)
        self._held = threading.Lock()
        self._seen = -1
        self._by_uid: dict[str, dict[str, dict[str, Any]]] = {}

    # Reading

    def follow(self) -> int:
        """Read what was decided since; return how many actions there are in all."""
        with self._held:
            count = len(self._store.actions())
            if count != self._seen:
                holding = self._store.holding()
                found: dict[str, dict[str, dict[str, Any]]] = {}
                for (uid, thing), (one, action) in holding.items():
                    said = {"what": one.what, "to": one.after, "by": action["by"], "when": action["when"]}
                    found.setdefault(uid, {})[thing] = said
                self._table.decide([(one.uid, one.what, one.after) for one, _ in holding.values()])
                self._by_uid, self._seen = found, count
            return self._seen

    def of(self, uids: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what holds of some rows, by uid and by what it is about (keep, duplicate, label)."""
        self.follow()
        return {uid: self._by_uid[uid] for uid in uids if uid in self._by_uid}

    def counts(self) -> dict[str, int]:
        """Return how many rows anything was decided about, and how many decisions of each kind hold."""
        self.follow()
        counts = dict.fromkeys(KINDS, 0)
        for things in self._by_uid.values():
            for one in things.values():
                counts[one["what"]] += 1
        return {"rows": len(self._by_uid), **{what: n for what, n in counts.items() if what != "reset"}}

    def changes(self, since: int) -> dict[str, Any]:
        """Return what holds now of the rows that actions after the first `since` were about."""
        seen = self.follow()
        actions = self._store.actions()
        rows = {one["id"]: one.get("rows", ()) for one in actions}
        uids = {
            row[0]
            for one in actions[max(0, since) :]
            for row in (*one.get("rows", ()), *rows.get(one.get("undo") or one.get("redo"), ()))
        }
        return {"seen": seen, "changed": {uid: self._by_uid.get(uid, {}) for uid in sorted(uids)}}

    def history(self, limit: int) -> list[dict[str, Any]]:
        """Return the latest actions, the last one first: who decided what, when, about how many rows, and whether it stands."""
        actions = self._store.actions()
        undone: set[str] = set()
        for one in actions:
            undone |= {one["undo"]} if "undo" in one else set()
            undone -= {one.get("redo", "")}
        found = []
        for one in reversed([action for action in actions if "rows" in action][-limit:]):
            first = Decision(*one["rows"][0])
            kinds = sorted({row[1] for row in one["rows"]})
            found.append(
                {
                    "id": one["id"], "when": one["when"], "by": one["by"], "what": kinds, "to": first.after,
                    "rows": len(one["rows"]), "uids": [row[0] for row in one["rows"][:8]],
                    "stands": one["id"] not in undone,
                }
            )  # fmt: skip
        return found

    # Writing

    def decide(self, by: object, uids: Sequence[str], what: str, to: str | None) -> str | None:
        """Write down one decision about some rows; return the name of the action. Raises UsageError for what is none."""
        if what not in KINDS:
            raise UsageError(f"there is no decision {what[:40]!r}; there are {', '.join(KINDS)}")
        if not 0 < len(uids) <= MOST:
            raise UsageError(f"a decision is about 1 to {MOST:,} rows, got {len(uids):,}")
        if to is not None and (what != "wrong_label" or not to.strip() or len(to) > LABEL_CHARACTERS):
            raise UsageError(
                f"only wrong_label has a value, the right label in 1 to {LABEL_CHARACTERS} characters"
            )
        said = self._said(uids, BEFORE.get(KINDS[what]))
        rows = [Decision(uid, what, said[uid], to) for uid in dict.fromkeys(uids)]
        action = self._by(by).decide(rows)
        self.follow()
        return action

    def _said(self, uids: Sequence[str], column: str | None) -> Mapping[str, str | None]:
        """Return what the rows say of the thing now. Raises UsageError for a uid that is none."""
        asked = f"select uid, {column or 'null'} as said from rows where uid in (select unnest(?)) and occurrence = 0"
        found = {row["uid"]: row["said"] for row in self._table.ask(asked, [list(uids)])}
        for uid in uids:
            if uid not in found:
                raise UsageError(f"there is no sample {uid[:80]!r} in this run")
        return found

    def turn(self, by: object, turn: str, action: str | None) -> str | None:
        """Take back, or let stand again, an action: by default the last of this person; return its name."""
        store = self._by(by)
        found = store.undo(action) if turn == "undo" else store.redo(action)
        self.follow()
        return found

    def _by(self, name: object) -> Overrides:
        """Return the store as somebody writes into it."""
        text = " ".join(name.split())[:NAME_CHARACTERS] if isinstance(name, str) else ""
        return Overrides(self._folder, text or user_name())
