"""What is said of wrong labels, and of what came before the method chose: the same words wherever a run is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "FEW_PAIRS",
    "lines",
    "named_errors",
    "said_of_heads",
    "say_concepts",
    "say_doubtful",
    "say_first",
    "say_held",
    "say_labels",
    "say_unseen",
]

#: Pairs of classes that a sentence names.
FEW_PAIRS = 3

Facts = Mapping[str, Any]


def named_errors(found: Facts | None, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what heads noted of wrong labels, classes by their names; None where they noted nothing.

    found : `label_errors` of their facts. names : what labels are called, where they are numbers.
    """
    if not found:
        return None
    kept = {name: value for name, value in found.items() if name not in ("calibration", "pairs")}
    pairs = [[names.get(a, a), names.get(b, b), rows] for a, b, rows in found["pairs"]]
    return {**kept, "pairs": pairs}


def say_labels(errors: Facts | None) -> list[str]:
    """Return a sentence on how many labels look wrong, and one on which; none where nothing was counted.

    >>> found = {"rows": 200, "count": 30, "rate": 0.15, "low": 0.107, "high": 0.206, "pairs": [["cat", "dog", 20]]}
    >>> print(*say_labels(found), sep=chr(10))
    labels: 30 of 200 (15.0 %, between 10.7 and 20.6 %) look wrong to heads that never saw them
    labels: most often cat looks like dog (20)
    >>> say_labels({**found, "few_sure": True, "sure": 1})[0].partition("them; ")[2]
    '1 (0.5 %) for sure: hard samples, or heads that know little, may explain the others'
    >>> say_labels({**found, "rate": 0.05, "gate": 0.06})[0].partition("them; ")[2]
    'so few (up to 6 %) are taken for hard samples'
    """
    if not errors:
        return []
    share, low, high = (100 * errors[name] for name in ("rate", "low", "high"))
    text = (
        f"labels: {errors['count']:,} of {errors['rows']:,} ({share:.1f} %, between {low:.1f} and {high:.1f} %) "
        "look wrong to heads that never saw them"
    )
    if errors["rate"] <= errors.get("gate", 0):
        text += f"; so few (up to {100 * errors['gate']:g} %) are taken for hard samples"
    elif errors.get("few_sure"):
        sure = f"{errors['sure']:,} ({100 * errors['sure'] / max(1, errors['rows']):.1f} %)"
        text += f"; {sure} for sure: hard samples, or heads that know little, may explain the others"
    pairs = ", ".join(f"{a} looks like {b} ({rows:,})" for a, b, rows in errors["pairs"][:FEW_PAIRS])
    return [text, *([f"labels: most often {pairs}"] if pairs else [])]


def say_doubtful(errors: Facts | None, to_look: int | None = None) -> str:
    """Return how many labels are to be looked at, and how many of these are wrong by the estimate; "" where it is not known.

    to_look : rows whose label is another class than that of the heads; by default as many as these noted.

    >>> say_doubtful({"differ": 149, "count": 65})
    '149 to look at (heads say another class), about 65 of them wrong by the estimate'
    >>> say_doubtful({"unseen": True, "count": 65}, 149)
    '149 to look at (heads say another class); how many are wrong is not known: labels are not visible in the pictures'
    """
    to_look = (errors or {}).get("differ") if to_look is None else to_look
    if to_look is None:
        return ""
    text = f"{to_look:,} to look at (heads say another class)"
    if not errors or "count" not in errors:
        return text
    if errors.get("unseen"):
        return f"{text}; how many are wrong is not known: labels are not visible in the pictures"
    return f"{text}, about {errors['count']:,} of them wrong by the estimate"


def say_unseen(errors: Facts | None) -> list[str]:
    """Return a sentence on labels that are not visible in the pictures, of which method auto takes none for wrong; else none.

    >>> say_unseen({"unseen": True, "accuracy": 0.18, "largest": 0.187})[0].partition(" (")[2]
    'heads that never saw them are right about 18.0 %, the largest class is 18.7 %), so none is taken for wrong'
    """
    if not errors or not errors.get("unseen"):
        return []
    text = (
        f"labels: not visible in the pictures (heads that never saw them are right about {100 * errors['accuracy']:.1f} %, the "
        f"largest class is {100 * errors['largest']:.1f} %), so none is taken for wrong"
    )
    return [text]


def said_of_heads(found: Facts) -> str:
    """Return a sentence on whether the probabilities of heads mean what they say. found : `calibration` of their facts.

    >>> said_of_heads({"rows": 2000, "temperature": 0.5, "error": 0.2, "error_scaled": 0.01})
    'heads: their probabilities are 20.0 points off on average (1.0 at temperature 0.5: they are not sure enough)'
    """
    temperature = found["temperature"]
    says = "not sure enough" if temperature < 1 else "too sure"
    return (
        f"heads: their probabilities are {100 * found['error']:.1f} points off on average "
        f"({100 * found['error_scaled']:.1f} at temperature {temperature:.3g}: they are {says})"
    )


def say_first(first: Facts | None) -> list[str]:
    """Return what went and what stayed before the method chose. first : what the stage `select` noted.

    >>> for line in say_first({"noise_by": "neg_aum", "noise": 30, "floor_per": "label", "floor": 9, "groups": 4, "floor_rows": 12}):
    ...     print(line)
    select: 30 rows with the worst neg_aum are dropped as noise
    select: each of 4 groups by label keeps at least 9 rows if it has them (12 rows)
    """
    found, first = [], first or {}
    if first.get("noise_by"):
        found.append(
            f"select: {first['noise']:,} rows with the worst {first['noise_by']} are dropped as noise"
            + say_held(first.get("noise_held", 0), first.get("noise_gone", 0))
        )
    if first.get("groups"):
        found.append(
            f"select: each of {first['groups']:,} groups by {first['floor_per']} keeps at least "
            f"{first['floor']:,} rows if it has them ({first['floor_rows']:,} rows)"
        )
    return [*found, *(f"select: {note}" for note in first.get("notes", ()))]


def say_held(held: int, gone: int = 0) -> str:
    """Return what is added about rows that would have gone as noise, had nobody said that they stay, or dropped them.

    >>> say_held(3), say_held(0), say_held(0, 2)
    ('; 3 more stay: they are pinned or kept, or somebody said which label is right', '', '; people dropped 2 more')
    """
    stay = (
        f"; {held:,} more stay: they are pinned or kept, or somebody said which label is right"
        if held
        else ""
    )
    return stay + (f"; people dropped {gone:,} more" if gone else "")


def say_concepts(levels: Sequence[int] | None, balance: Facts | None) -> list[str]:
    """Return what is said of the levels of concepts, and of how evenly the kept rows are spread over concepts.

    >>> for line in say_concepts([600, 60, 9], {"effective": 557.31, "concepts": 590}):
    ...     print(line)
    concepts in levels: 600, then 60, then 9
    select: the kept rows are spread as over 557.3 equal concepts, of 590 that have rows
    """
    found = []
    if levels:
        found.append("concepts in levels: " + ", then ".join(f"{count:,}" for count in levels))
    if balance:
        found.append(
            f"select: the kept rows are spread as over {balance['effective']:,.1f} equal concepts, of "
            f"{balance['concepts']:,} that have rows"
        )
    return found


def lines(
    errors: Facts | None, first: Facts | None, auto: Facts | None, concepts: Sequence[str] = ()
) -> Sequence[str]:
    """Return all that is said: what method auto said of itself, or the sentences on labels and on what came first.

    concepts : what `say_concepts` gave.
    """
    if auto:
        return [*auto["why"], *concepts]
    return [*say_labels(errors), *say_first(first), *concepts]
