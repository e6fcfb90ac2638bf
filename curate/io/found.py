"""What was found where a source is: files used and files passed over, counted for one line.

Whoever lists files says what it leaves out (`passed_over`) and takes (`used`); it is heard only inside `counting`.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import PurePosixPath

__all__ = ["Found", "counting", "hint", "is_counted", "passed_over", "used"]

#: Files of one kind that are named; of more, their number is given.
NAMED = 2
#: Reasons and kinds that one line has room for.
MOST = 8


@dataclass
class Found:
    """Files used, by ending, and files passed over, by reason and ending.

    names : the first of each kind passed over. hints : what else was passed over in them, in words.
    """

    used: Counter[str] = field(default_factory=Counter)
    passed: Counter[tuple[str, str]] = field(default_factory=Counter)
    names: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    hints: dict[str, None] = field(default_factory=dict)

    def without(self, endings: Iterable[str]) -> "Found":
        """Return the same without what was passed over with these endings."""
        left = {kind: n for kind, n in self.passed.items() if kind[1] not in tuple(endings)}
        return Found(self.used, Counter(left), self.names, self.hints)

    def __str__(self) -> str:
        """Return all of it in one line."""
        taken = ", ".join(f"{n:,} {end}" for end, n in sorted(self.used.items())) or "nothing"
        if not self.passed:
            return f"used {taken}"
        reasons: dict[str, list[str]] = {}
        for (why, end), n in sorted(self.passed.items()):
            few = n <= NAMED and self.names.get((why, end))
            reasons.setdefault(why, []).append(", ".join(few) if few else f"{n:,} {end}")
        said = [f"{', '.join(_cut(kinds))} ({why})" for why, kinds in reasons.items()]
        return f"used {taken}; passed over {'; '.join(said)}"

    def facts(self) -> Mapping[str, object]:
        """Return the counts as plain values."""
        passed: dict[str, dict[str, int]] = {}
        for (why, end), n in sorted(self.passed.items()):
            passed.setdefault(why, {})[end] = n
        return {"used": dict(sorted(self.used.items())), "passed_over": passed}


def _cut(kinds: list[str]) -> list[str]:
    return kinds if len(kinds) <= MOST else [*kinds[: MOST - 1], f"and {len(kinds) - MOST + 1} other kinds"]


_LISTENING: ContextVar[Found | None] = ContextVar("found", default=None)


@contextlib.contextmanager
def counting(found: Found | None = None) -> Iterator[Found]:
    """Give the counts of what is found while inside; those of `found` go on."""
    found = found or Found()
    token = _LISTENING.set(found)
    try:
        yield found
    finally:
        _LISTENING.reset(token)


def is_counted() -> bool:
    """Return True inside `counting`."""
    return _LISTENING.get() is not None


def used(paths: Iterable[str]) -> None:
    """Count files that are used."""
    if (found := _LISTENING.get()) is not None:
        found.used.update(map(_ending, paths))


def hint(text: str) -> None:
    """Note something else that was passed over; what was noted before is not noted again."""
    if (found := _LISTENING.get()) is not None:
        found.hints[text] = None


def passed_over(path: str, why: str, n: int = 1) -> None:
    """Count a file (or, ending in a slash, a folder) that is not used, and why; n : how many like it."""
    if (found := _LISTENING.get()) is not None:
        kind = (why, _ending(path))
        found.passed[kind] += n
        if len(known := found.names.setdefault(kind, [])) < NAMED:
            known.append(PurePosixPath(path).name + "/" * path.endswith("/"))


def _ending(path: str) -> str:
    """Return what kind of file a path names, by its ending.

    >>> _ending("a/b.JPG"), _ending("a.tar.gz"), _ending("a/.git/"), _ending("LICENSE"), _ending(".DS_Store")
    ('.jpg', '.tar.gz', 'folder', 'without ending', '.DS_Store')
    """
    name = path.rpartition("/")[2]
    if not name:
        return "folder"
    parts = PurePosixPath(name)
    if parts.suffix.lower() == ".gz":
        return "".join(PurePosixPath(name).suffixes[-2:]).lower()
    return parts.suffix.lower() or (name if name[0] in "._" else "without ending")
