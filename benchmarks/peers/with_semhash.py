"""SemHash: near-duplicates among records, by vectors that are given and an approximate index."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class _NoEncoder:
    """What SemHash asks for to embed further records, of which there are none."""

    def encode(self, *_given: object, **_more: object) -> np.ndarray:
        """Refuse."""
        raise NotImplementedError


def judged(folder: str, similarity: float) -> Iterator[None]:
    """Keep the first of each group of near-duplicates; return what came out."""
    from semhash import SemHash

    yield
    vectors = np.load(Path(folder, "vectors.npy")).astype(np.float32)
    records = [str(row) for row in range(len(vectors))]
    found = SemHash.from_embeddings(embeddings=vectors, records=records, model=_NoEncoder())
    dropped = {int(one.record) for one in found.self_deduplicate(threshold=similarity).filtered}
    Path(folder, "kept.json").write_text(json.dumps(sorted(set(range(len(vectors))) - dropped)))
    pairs = json.loads(Path(folder, "pairs.json").read_text())
    there = sum(a in dropped or b in dropped for a, b in pairs)
    return {"dropped": len(dropped), "planted copies found": round(there / len(pairs), 4)}
