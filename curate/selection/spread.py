"""How unevenly a temperature divides rows over concepts, and the temperature that divides them as asked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Discriminator, Field, Tag

from curate.errors import RecipeError
from curate.selection.budget import softmax
from curate.settings import Settings

__all__ = [
    "DECIDES_NOTHING", "Solved", "Spread", "Temperature", "effective_number", "said_of", "spread", "temperature_for",
]  # fmt: skip

Floats = npt.NDArray[np.float64]

#: With a larger effective share, budgets are as good as equal: complexity decides nothing.
DECIDES_NOTHING = 0.98


class Solved(Settings):
    """A temperature that is solved for: effective_share, exp(entropy) of the shares as a part of all concepts."""

    effective_share: Annotated[float, Field(gt=0, lt=1)] = 0.9


def _kind(value: object) -> str:
    """Return which form a temperature has, so that a wrong one is told what that form takes."""
    if value == "auto":
        return "a word"
    return "a share" if isinstance(value, Mapping | Solved) else "a number"


#: A number above 0, or what it is solved for; auto is an effective share of 0.9.
Temperature = Annotated[
    Annotated[Literal["auto"], Tag("a word")]
    | Annotated[Solved, Tag("a share")]
    | Annotated[float, Field(gt=0), Tag("a number")],
    Discriminator(_kind),
]


@dataclass(frozen=True)
class Spread:
    """How unevenly a temperature divides the rows over concepts.

    largest, smallest : shares aimed at, before sizes and floors bound them. effective : exp(entropy) of the
    shares, from 1 (one concept gets everything) to the number of concepts (all equal). concepts : that number.
    """

    temperature: float
    largest: float
    smallest: float
    effective: float
    concepts: int = 0

    @property
    def ratio(self) -> float:
        """Return largest to smallest share; infinite where the smallest is 0."""
        return self.largest / self.smallest if self.smallest else math.inf

    @property
    def effective_share(self) -> float:
        """Return the effective number of concepts as a share of all, in (0, 1]; 1 where there is none."""
        return self.effective / self.concepts if self.concepts else 1.0

    @property
    def facts(self) -> dict[str, float | int | None]:
        """Return the numbers as JSON can hold them: the ratio is None where it is infinite."""
        ratio = self.ratio if math.isfinite(self.ratio) else None
        return {**vars(self), "ratio": ratio, "effective_share": self.effective_share}


def said_of(facts: Mapping[str, Any]) -> str:
    """Return how unevenly complexity divides rows, in words. facts : as `Spread.facts` gives them.

    >>> said_of(spread(np.array([0.1, 0.2]), 0.1).facts)
    'complexity gives the largest concept 2.72 times the share of the smallest; 1.8 effective concepts of 2 (temperature 0.1)'
    """
    times = "by far more than" if facts["ratio"] is None else f"{facts['ratio']:,.3g} times"
    return (
        f"complexity gives the largest concept {times} the share of the smallest; {facts['effective']:,.1f} effective "
        f"concepts of {facts['concepts']:,} (temperature {facts['temperature']:g})"
    )


def spread(complexity: Floats, temperature: float) -> Spread:
    """Return how unevenly `temperature` divides the rows over concepts of this complexity, (k,).

    >>> even, uneven = spread(np.array([0.1, 0.2]), np.inf), spread(np.array([0.1, 0.2]), 0.1)
    >>> even.effective, round(uneven.ratio, 3), round(uneven.effective, 3)
    (2.0, 2.718, 1.79)
    """
    share = softmax(complexity, temperature)
    if len(share) == 0:
        return Spread(temperature, 0.0, 0.0, 0.0)
    some = share[share > 0]
    entropy = -math.fsum((some * np.log(some)).tolist())
    return Spread(temperature, float(share.max()), float(share.min()), math.exp(entropy), len(share))


def effective_number(counts: npt.NDArray[np.integer[Any]]) -> float:
    """Return exp(entropy) of how rows are divided over groups, (k,): as many as equal groups would be; 0 of no rows.

    >>> effective_number(np.array([5, 5, 0])), round(effective_number(np.array([9, 1])), 3)
    (2.0, 1.384)
    """
    share = counts[counts > 0] / max(1, int(counts.sum()))
    return math.exp(-math.fsum((share * np.log(share)).tolist())) if len(share) else 0.0


def temperature_for(complexity: Floats, effective_share: float) -> float:
    """Return the temperature at which exp(entropy) of the shares is `effective_share` of the concepts, (k,).

    The share grows with the temperature, so it is found by halving; three significant digits are kept, for a number that
    people can write down. Where all complexities are equal, any temperature divides equally: 1 is returned. Where many
    concepts share the largest complexity, no temperature may give so few; the smallest one tried is returned then.

    Raises RecipeError for a share outside (0, 1).

    >>> found = temperature_for(np.array([0.1, 0.2, 0.4]), 0.9)
    >>> found, round(spread(np.array([0.1, 0.2, 0.4]), found).effective_share, 3)
    (0.275, 0.9)
    """
    if not 0 < effective_share < 1:
        raise RecipeError(f"select.effective_share must be between 0 and 1, got {effective_share:g}")
    gap = (
        float(complexity.max(initial=-math.inf) - complexity.min(initial=math.inf))
        if len(complexity)
        else 0.0
    )
    if not gap > 0:
        return 1.0
    low, high = math.log(gap) - 12.0, math.log(gap) + 12.0  # temperatures from 6e-6 to 160,000 times the gap
    for _ in range(60):
        middle = (low + high) / 2
        if spread(complexity, math.exp(middle)).effective_share < effective_share:
            low = middle
        else:
            high = middle
    return float(f"{math.exp(high):.3g}")
