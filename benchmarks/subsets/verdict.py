"""What the cells say of `auto` as a whole: below random how often, what part of the truth's gain, and of whose choosing."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from subsets import tables

__all__ = ["Place", "left_out", "markdown", "places", "share_of_oracle"]

Cell = Mapping[str, Any]
#: The parts that `auto` is made of, alone and together: what may be chosen from other pools.
PARTS = ("random", "noise out (auto), then random", "floor half, then random", "auto")


class Place(NamedTuple):
    """A judge, a pool and a share: the differences to random draws in points, and which are beyond chance."""

    judge: str
    pool: str
    share: float
    gains: dict[str, float]
    beyond: dict[str, bool]

    @property
    def oracle(self) -> float | None:
        """What the best of those who know the truth gains; None where there is no truth to know."""
        return max((gain for name, gain in self.gains.items() if name.startswith("oracle")), default=None)


def places(cells: Sequence[Cell]) -> list[Place]:
    """Return what was measured, a place for each judge, pool and share."""
    found = []
    for judge, pool in sorted({(cell["judge"], cell["pool"]) for cell in cells}):
        group = [cell for cell in cells if (cell["judge"], cell["pool"]) == (judge, pool)]
        for share in sorted({cell["share"] for cell in group if cell["share"] < 1}):
            at = {
                name: tables.compared(group, share, name)
                for name in dict.fromkeys(cell["name"] for cell in group if cell["share"] == share)
                if not name.startswith("draw ")
            }
            known = {name: one for name, one in at.items() if one is not None}
            gains = {name: one[0] for name, one in known.items()}
            beyond = {name: one[1] for name, one in known.items()}
            found.append(Place(judge, pool, share, gains, beyond))
    return found


def share_of_oracle(found: Sequence[Place], name: str) -> list[tuple[Place, float]]:
    """Return, where the truth gains over a point, what part of that a method gains."""
    return [
        (place, place.gains[name] / place.oracle)
        for place in found
        if place.oracle is not None and place.oracle > 1 and name in place.gains
    ]


def left_out(found: Sequence[Place]) -> dict[str, tuple[str, float, float]]:
    """Return for each pool: the part that is best on all other pools, and what it and `auto` gain on this one."""
    whole = [place for place in found if all(part in place.gains for part in PARTS)]
    result = {}
    for pool in dict.fromkeys(place.pool for place in whole):
        others = [place for place in whole if place.pool != pool]
        if others:
            best = max(PARTS, key=lambda part: mean(place.gains[part] for place in others))
            own = [place for place in whole if place.pool == pool]
            result[pool] = best, mean(one.gains[best] for one in own), mean(one.gains["auto"] for one in own)
    return result


def markdown(cells: Sequence[Cell]) -> str:
    """Return what is said of `auto` as a section of a page."""
    found = [place for place in places(cells) if "auto" in place.gains]
    lines = ["### `auto` as a whole", ""]
    for name in ("auto", "placebo"):
        below = [one for one in found if one.beyond.get(name) and one.gains[name] < 0]
        worst = min((one.gains[name] for one in found if name in one.gains), default=0.0)
        lines += [
            f"- `{name}` is below random beyond chance in {len(below)} of {len(found)} cells; its worst cell is {worst:+.1f} points."
        ]
    parts = share_of_oracle(found, "auto")
    if parts:
        least, part = min(parts, key=lambda one: one[1])
        lines.append(
            f"- Where somebody who knows the truth gains over a point ({len(parts)} cells), `auto` gains "
            f"{mean(one for _, one in parts):.0%} of that on average, and least in {least.pool} at {least.share:.0%} "
            f"judged by {least.judge}: {part:.0%}."
        )
    for pool, (best, gain, auto) in left_out(found).items():
        lines += [
            f"- Chosen on all pools but {pool}: {best}, which gains {gain:+.1f} there (`auto` {auto:+.1f})."
        ]
    return "\n".join([*lines, ""])
