"""CoLoR-Filter: how much the target set helps with a sample (Brandfonbrener et al. 2024, arXiv:2406.10670)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.scores.columns import Column
from curate.scores.tables.differences import Difference, difference

__all__ = ["Color", "color"]


class Color(Difference):
    """CoLoR-Filter: what a sample's loss falls by when the model has seen the target, prior - conditional."""

    measures: ClassVar[str] = "what a loss falls by when the model has seen the target set"
    paper: ClassVar[str] = "Brandfonbrener et al. 2024, arXiv:2406.10670"
    cost: ClassVar[str] = "one subtraction per sample"
    requires: ClassVar[str] = "two columns of losses"
    avoid: ClassVar[str] = "where both losses are of one model: it is then noise"
    place: ClassVar[int] = 7
    outputs: ClassVar[Mapping[str, Column]] = {"color": Column("better")}

    family: Literal["color"] = "color"
    prior: str
    conditional: str

    losses: ClassVar[tuple[str, str]] = ("prior", "conditional")


def color(
    prior: npt.NDArray[np.floating[Any]], conditional: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.float64]:
    """Return what the loss of each sample falls by when the model has seen the target set; higher is better.

    prior, conditional : (n,), the loss under a model trained on the pool, and under the same model after it
    was trained on the target set too. Returns prior - conditional, (n,), below 0 where the target set makes
    a sample less likely; NaN where a loss is not finite.

    >>> color(np.array([3.2, 2.0, np.inf]), np.array([3.0, 2.1, 1.0])).round(6)
    array([ 0.2, -0.1,  nan])
    """
    return difference(prior, conditional)
