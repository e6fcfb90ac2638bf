"""How long given vectors are: those of CLIP have length 1, and others may not be what they are taken for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = ["TOLERANCE", "Lengths", "warn_of_lengths"]

#: How far a median length may be from 1 before it is worth a word; float16 alone moves it by 0.1 %.
TOLERANCE = 0.01

log = logging.getLogger("curate")


@dataclass
class Lengths:
    """The lengths of some vectors, collected batch by batch.

    >>> lengths = Lengths()
    >>> lengths.note(np.array([5.0, 1.0, 7.0]))
    >>> lengths.median()
    5.0
    """

    noted: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def note(self, lengths: npt.NDArray[np.float64]) -> None:
        """Add the lengths (n,) of some vectors."""
        # float64 is not needed to tell 1 from 1.01, and an overflow to infinity is far from 1 too
        with np.errstate(over="ignore"):
            self.noted.append(lengths.astype(np.float32))

    def median(self) -> float | None:
        """Return the median length; None where nothing was noted."""
        every = np.concatenate([np.empty(0, np.float32), *self.noted])
        return float(np.median(every)) if len(every) else None


def warn_of_lengths(names: Sequence[str], lengths: Sequence[Mapping[str, Lengths]]) -> None:
    """Log one warning where the median length in one of several parts is more than 1 % off 1.

    names : the file of each part. lengths : by what the vectors stand for (image, text), of each part.
    """
    medians = [
        (median, f"the {kind} vectors of {name}")
        for name, kinds in zip(names, lengths, strict=True)
        for kind, one in kinds.items()
        if (median := one.median()) is not None
    ]
    off = [pair for pair in medians if abs(pair[0] - 1) > TOLERANCE]
    if off:
        median, name = max(off, key=lambda pair: abs(pair[0] - 1))
        log.warning(
            "embed: the median length of %s is %.4g (more than 1 %% off 1 in %s of %s arrays); all are scaled to "
            "length 1: check that they are embeddings",
            name, median, f"{len(off):,}", f"{len(medians):,}",
        )  # fmt: skip
