"""A sample of the vectors of a run, by the hash of the uid: the same rows whatever the shards and their order."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.analysis.diagnosis.space import alignment, modality_gap, uniformity
from curate.embedding.store import EmbeddingPart
from curate.hashing import hash_uids
from curate.io.remote.cache import state_of
from curate.linalg import load_unit

__all__ = ["ROWS", "VectorSample", "hash_limit", "sample_of"]

#: About how many rows are looked at: two million pairs.
ROWS = 2_000

Matrix = npt.NDArray[np.float32]


def _empty() -> Matrix:
    return np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class VectorSample:
    """Rows with the smallest hashes. hashes : (s,). image : (s, d) unit rows. text : (s, d), NaN where there is none."""

    hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    image: Matrix = field(default_factory=_empty)
    text: Matrix = field(default_factory=_empty)

    def __add__(self, other: "VectorSample") -> "VectorSample":
        """Return the rows of both, in the order of their hashes."""
        if not len(other.hashes):
            return self
        if not len(self.hashes):
            return other
        order = np.argsort(hashes := np.concatenate([self.hashes, other.hashes]), kind="stable")
        image, text = (
            np.concatenate([one, two])[order]
            for one, two in ((self.image, other.image), (self.text, other.text))
        )
        return VectorSample(hashes[order], image, text)

    def facts(self) -> dict[str, Any] | None:
        """Return rows, pairs, gap, alignment and uniformity of images and texts; None without rows."""
        if not len(self.hashes):
            return None
        paired = np.isfinite(self.text).all(axis=1)
        image, text = self.image[paired], self.text[paired]
        found: dict[str, Any] = {"rows": len(self.hashes), "pairs": int(paired.sum())}
        values = {"uniformity_image": uniformity(self.image)}
        if len(text):
            values = {
                "modality_gap": modality_gap(image, text), "alignment": alignment(image, text), **values,
                "uniformity_text": uniformity(text),
            }  # fmt: skip
        return found | {name: round(value, 4) for name, value in values.items() if np.isfinite(value)}


def hash_limit(total: int) -> int:
    """Return the hash below which about `ROWS` of `total` rows are."""
    return min((1 << 64) - 1, (ROWS << 64) // max(1, total))


def sample_of(path: Path, uids: list[str], limit: int) -> VectorSample:
    """Return the rows of a part whose hash is at most `limit`; none of a file that is not on this machine.

    path : of the part's embeddings. uids : of its rows, in order; where they are not as many there is nothing to say.
    """
    noted = state_of(path)
    if not path.exists() or (noted is not None and not noted[1]):
        return VectorSample()
    part = EmbeddingPart(path)
    if len(part) != len(uids):
        return VectorSample()
    hashes = hash_uids(uids, "diagnosis")
    places = np.flatnonzero(hashes <= np.uint64(limit))
    places = places[np.argsort(hashes[places], kind="stable")]
    image = load_unit(part.take("image", places))
    text = np.full_like(image, np.nan)
    if part.has_text:
        present = np.concatenate(
            [part.present("text", batch) for batch in range(part.batches)] or [places > 0]
        )
        there = present[places]
        text[there] = load_unit(part.take("text", places[there]))
    return VectorSample(hashes[places], image, text)
