"""What is new in a source that grows: shards that were added, changed or taken away."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Changes", "changes"]


class Changes(NamedTuple):
    """How many shards are new, changed (another content under the same name) and gone since a run was read last."""

    new: int
    changed: int
    removed: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.new:,} new, {self.changed:,} changed, {self.removed:,} removed"


def changes(before: Iterable[Mapping[str, Any]], now: Iterable[tuple[str, str]]) -> Changes:
    """Compare the parts a run was made of (as saved) with (shard, part) of those it is made of now.

    The name of a part stands for its content, so a shard whose parts have other names has changed.

    >>> old = [{"name": "p1", "shard": {"name": "a"}}, {"name": "p2", "shard": {"name": "b"}}]
    >>> changes(old, [("b", "p9"), ("c", "p3")])
    Changes(new=1, changed=1, removed=1)
    """
    old, new = _by_shard((row["shard"]["name"], row["name"]) for row in before), _by_shard(now)
    both = old.keys() & new.keys()
    return Changes(
        new=len(new) - len(both),
        changed=sum(old[name] != new[name] for name in both),
        removed=len(old) - len(both),
    )


def _by_shard(rows: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for shard, part in rows:
        found.setdefault(shard, set()).add(part)
    return found
