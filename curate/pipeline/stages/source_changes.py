"""What is new in a source that grows: shards that were added, changed or taken away."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from curate.sources.base import Shard

__all__ = ["Changes", "KnownShards", "changes"]


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


def _partitions(name: str) -> list[str]:
    """Return the folders of a name that say what its rows hold, as Hive writes them (``year=2024``)."""
    return [folder for folder in name.split("/")[:-1] if "=" in folder]


class KnownShards:
    """What a run calls the shards that it has read, by whatever path they are reached now.

    A shard that is reached by a wider pattern, or beside a second source, keeps the name it was read under, so that
    its parts keep theirs, and nothing of it is computed again.
    """

    def __init__(
        self, saved: Iterable[Mapping[str, Any]], prints: Mapping[str, Sequence[str]], now: Iterable[str]
    ) -> None:
        """Take the parts a run was made of, {url: (version, content, ...)} of then, and the names found now."""
        self._now = frozenset(now)
        self._by_url: dict[str, tuple[str, str]] = {}
        for row in saved:
            url, name = str(row["shard"]["url"]), str(row["shard"]["name"])
            if url in prints:
                self._by_url[url] = name, prints[url][1]

    @property
    def urls(self) -> Iterable[str]:
        """Where the shards were."""
        return self._by_url.keys()

    def name(self, shard: Shard) -> str:
        """Return what the run calls a shard that was found and hashed."""
        known, held = self._by_url.get(shard.url, (shard.name, ""))
        if shard.format == "folder" or known in self._now:  # names of folders are labels, and part of paths
            return shard.name
        same = held == shard.content and _partitions(known) == _partitions(shard.name)
        return known if same else shard.name
