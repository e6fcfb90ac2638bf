"""Vectors in memory as the trainer of heads takes them."""

from curate.linalg import unit_rows
from curate.scores.status import embedding_status


class ArrayRows:
    """Vectors in memory, scaled to unit length; `status` says which have a direction."""

    def __init__(self, vectors):
        self._unit, _ = unit_rows(vectors)
        self.status = embedding_status(vectors)

    @property
    def dim(self):
        return int(self._unit.shape[1])

    def __len__(self):
        return len(self._unit)

    def take(self, positions):
        return self._unit[positions]
