"""What one row of a file says was decided, before anybody knows whether the run has such a sample."""

from typing import NamedTuple

from curate.errors import UsageError
from curate.overrides.store import KINDS

__all__ = ["Entry", "checked", "malformed"]


class Entry(NamedTuple):
    """A decision in a file. row : its number, from 1, as people count. label : the right label, where one is given."""

    row: int
    uid: str
    what: str
    label: str | None = None


def malformed(path: str, row: int, said: str) -> UsageError:
    """Return the error about one row of a file."""
    return UsageError(f"{path}: row {row:,}: {said}; nothing was taken from the file")


def checked(path: str, row: int, uid: object, what: object, label: object = None) -> Entry | None:
    """Return what a row says, None where it decides nothing; raise UsageError where it makes no sense."""
    what = what.strip() if isinstance(what, str) else what
    if what is None or what == "":
        return None
    if what not in KINDS:
        raise malformed(path, row, f"there is no decision {what!r}; there are {', '.join(KINDS)}")
    if uid is None or str(uid) == "":
        raise malformed(path, row, f"{what} needs the uid of a sample in the column uid")
    text = None if label is None or str(label) == "" else str(label)
    return Entry(row, str(uid), str(what), text if what == "wrong_label" else None)
