"""The rows with a score nearest to a value: neither the most nor the least of it."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from curate.ordering.cutoff import nth_smallest
from curate.ordering.keys import priority_key
from curate.ordering.span import Cuts
from curate.selection.base import ByScore, pairs
from curate.selection.rules import Stretch


class Nearest(ByScore):
    """The rows whose score differs least from `value`, on either side of it."""

    keeps = "the values of a score (`by`) nearest to `value`"
    direction = "the smallest difference first"
    avoid = "when more of the score is always better: take hardest, easiest or top"
    paper = "Marion et al. 2023, arXiv:2309.04564"
    as_it_is = True

    method: Literal["nearest"] = "nearest"
    value: Annotated[float, Field(allow_inf_nan=False)]

    def key(self, score, draw):
        """Return unsigned numbers in the order of keeping: the smallest difference is first."""
        return priority_key(np.abs(score - self.value), "easiest")

    def fit(self, rows, n_keep, total):
        """Return the rule that keeps the rows up to number `n_keep` in the order of their keys."""
        return Stretch(Cuts(None, nth_smallest(pairs(rows), n_keep)))
