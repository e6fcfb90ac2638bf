"""What a run remembers of samples that were taken out of it for good: salted hashes, by which they are known if they come back.

A salt keeps the hashes from being looked up in lists of hashes made elsewhere. It does not keep who holds a picture and
the run from finding that it was forgotten: that is what the hashes are for.
"""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from curate.io import storage
from curate.runs.folder import RunFolder

__all__ = ["FORGOTTEN", "OUTCOME", "Forgotten"]

#: The file of a run that remembers, and the outcome of a row that was forgotten.
FORGOTTEN, OUTCOME = "forgotten.json", "forgotten"


@dataclass(frozen=True)
class Forgotten:
    """Samples that were forgotten. salt : of the hashes. hashes : of uids and of images. past : what was done, and when."""

    salt: str
    hashes: frozenset[str] = frozenset()
    past: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, run: RunFolder) -> "Forgotten":
        """Return what a run remembers; nothing, with a new salt, where nothing was forgotten."""
        found = storage.read_json(run.path / FORGOTTEN)
        if not isinstance(found, dict):
            return cls(secrets.token_hex(16))
        return cls(found["salt"], frozenset(found["hashes"]), tuple(found["past"]))

    def __bool__(self) -> bool:
        """Return True if anything was forgotten."""
        return bool(self.hashes)

    @property
    def fingerprint(self) -> list[str]:
        """What stands for all that was forgotten, as a list: empty where it is nothing."""
        return [storage.fingerprint("forgotten", sorted(self.hashes))] if self.hashes else []

    def hash_of(self, *said: str) -> str:
        """Return the salted hash of what identifies a sample."""
        state = hashlib.blake2b(key=bytes.fromhex(self.salt), digest_size=16)
        state.update("\x1f".join(said).encode("utf-8", "surrogatepass"))
        return state.hexdigest()

    def knows(self, values: Sequence[str | None]) -> list[bool]:
        """Return for each uid or hash of an image whether it is that of a forgotten sample."""
        return [one is not None and self.hash_of(one) in self.hashes for one in values]

    def tombstone(self, *place: str) -> str:
        """Return the uid of a row that was forgotten: it says nothing of who was there."""
        return f"forgotten-{self.hash_of('place', *place)}"

    def remember(self, run: RunFolder, said: Iterable[str | None], note: Mapping[str, Any]) -> "Forgotten":
        """Write down that samples with these uids and hashes of images are forgotten; return what the run remembers now."""
        new = {self.hash_of(one) for one in said if one is not None}
        when = datetime.now(UTC).isoformat(timespec="seconds")
        past = self.past if new <= self.hashes else (*self.past, {"when": when, **note})
        made = Forgotten(self.salt, self.hashes | new, past)
        record = {"salt": made.salt, "hashes": sorted(made.hashes), "past": [dict(one) for one in past]}
        storage.write_record(run.path / FORGOTTEN, record)
        return made
