"""What matters most about a run, in at most ten sentences: made of its summary, the same wherever a run is shown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curate.analysis.summary.said import say_concepts, say_doubtful, say_labels, say_unseen
from curate.analysis.summary.summary import RunSummary
from curate.deduplication.findings import of_sample
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.report.evaluation_figure import EVALUATION_VERSION
from curate.report.formatting import REASONS, SPACE, cut, share
from curate.report.model import Matter
from curate.runs.folder import RunFolder
from curate.selection.spread import DECIDES_NOTHING, said_of

__all__ = [
    "MANY_UNUSABLE",
    "evaluation_of",
    "say_auto",
    "say_chance",
    "say_copies",
    "say_imbalance",
    "say_rows",
    "say_spread",
    "say_unusable",
    "what_matters",
]

#: A larger share of unusable rows is said.
MANY_UNUSABLE = 0.01

_WARNING = 300  # characters of a warning: what it advises stands at its end

Facts = Mapping[str, Any]


def what_matters(run: RunFolder, found: RunSummary) -> list[Matter]:
    """Return the sentences about a run that apply, what most readers ask first in front, the next command last.

    Before there are decisions there are none. A summary that is not whole has fewer sentences.
    """
    where, counts = run.where, found.counts
    if counts is None:
        return []
    evaluation, labels = evaluation_of(run), found.groups.get("label", [])
    lines = [
        Matter(say_rows(counts)),
        *(Matter(text, warns=True) for text in say_unusable(counts)),
        *(Matter(text) for text in say_copies(counts, found.duplicates, found.near_sample)),
        *_labels(found.label_errors, labels, where, auto=bool(found.auto)),
        *(Matter(text) for text in say_imbalance(labels, cut_off="label" in found.scan.cut)),
        *(Matter(text) for text in say_spread(found.complexity, found.balance)),
        *(Matter(text) for text in say_chance(evaluation)),
        *(Matter(text) for text in say_auto(found.auto)),
        *_warned([*found.warnings, *(str(one["error"]) for one in found.bad_shards)]),
    ]
    return [*lines, _next(run, found, evaluation, can_judge=bool(labels))]


def evaluation_of(run: RunFolder) -> dict[str, Any]:
    """Return what `curate evaluate` found of a run, and whether that was of another decision; empty without it."""
    found = storage.read_json(run.evaluation / "evaluation.json")
    if not isinstance(found, dict) or found.get("version") != EVALUATION_VERSION:
        return {}
    return {**found, "stale": found["decisions"] != run.fingerprint(run.decisions)}


def say_rows(counts: Facts) -> str:
    """Return how many rows came in and are kept, and which reason took most.

    >>> say_rows({"rows": 10, "kept": 3, "dropped": {"over_budget": 5, "near_duplicate": 1}, "unusable": {"bad_row": 1}})
    '10 rows came in, 3 (30.0 %) are kept, 7 are not: most of these as over_budget (5: usable, but outside what was asked for)'
    """
    rows, kept = counts["rows"], counts["kept"]
    text = f"{rows:,} rows came in, {kept:,} ({_share(kept, rows)}) are kept"
    gone = {**counts["dropped"], **{f"unusable:{name}": n for name, n in counts["unusable"].items()}}
    if not gone:
        return text
    reason, most = max(gone.items(), key=lambda item: item[1])
    why = REASONS.get(reason.partition(":")[0])
    because = f": {why}" if why else ""
    return f"{text}, {rows - kept:,} are not: most of these as {cut(reason)} ({most:,}{because})"


def say_unusable(counts: Facts) -> list[str]:
    """Return why rows are unusable where more than `MANY_UNUSABLE` of them are.

    >>> say_unusable({"rows": 100, "unusable": {"broken_image": 3, "no_caption": 1}})
    ['4 rows (4.0 %) are unusable: broken_image (3), no_caption (1)']
    """
    total = sum(counts["unusable"].values())
    if total <= MANY_UNUSABLE * counts["rows"]:
        return []
    why = sorted(counts["unusable"].items(), key=lambda item: (-item[1], item[0]))
    said = ", ".join(f"{name} ({n:,})" for name, n in why[:3])
    more = f" and {len(why) - 3:,} other reasons" if len(why) > 3 else ""
    return [f"{total:,} rows ({_share(total, counts['rows'])}) are unusable: {said}{more}"]


def say_copies(counts: Facts, duplicates: Facts | None, near_sample: Facts | None) -> list[str]:
    """Return the share of copies and of near-duplicates; where these were not looked for, that of a sample.

    >>> say_copies({"rows": 50, "dropped": {"exact_duplicate": 5, "near_duplicate": 2}}, {"epsilon": 0.01}, None)
    ['5 rows (10.0 %) are exact copies of others, and 2 (4.0 %) went as near-duplicates (epsilon 0.01)']
    """
    rows, dropped = counts["rows"], counts["dropped"]
    copies, near = dropped.get("exact_duplicate", 0), dropped.get("near_duplicate", 0)
    text = f"{copies:,} rows ({_share(copies, rows)}) are exact copies of others"
    if near_sample is not None:
        return [f"{text}; {of_sample(near_sample)}"]
    if duplicates is None:
        return [text] if copies else []
    epsilon = duplicates.get("epsilon")
    at = "" if epsilon is None else f" (epsilon {epsilon:.6g})"
    return [f"{text}, and {near:,} ({_share(near, rows)}) went as near-duplicates{at}"]


def _labels(errors: Facts | None, labels: Sequence[Facts], where: str, *, auto: bool) -> Iterator[Matter]:
    """Yield how many labels look wrong, or that nothing says so. auto : whether method auto chose."""
    unseen = say_unseen(errors) if auto else []
    if unseen:
        yield Matter(_first_large(unseen[0]))
    elif errors:
        for text in say_labels(errors)[:1]:
            yield Matter(
                f"{_first_large(text)}; {say_doubtful(errors) or 'look at them, and put them right'}",
                f"curate review {where}",
                warns=errors["rate"] > errors.get("gate", 0),
            )
    elif labels:
        yield Matter(
            f"No score says which labels of the {len(labels):,} classes are wrong",
            f"curate score {where} heads",
        )


def say_imbalance(labels: Sequence[Facts], *, cut_off: bool = False) -> list[str]:
    """Return how much larger the largest class is than the smallest, among all rows and among the kept ones.

    cut_off : whether only the largest classes are known; then nothing is said.

    >>> say_imbalance([{"group": "cat", "rows": 90, "kept": 12}, {"group": "dog", "rows": 10, "kept": 4}])
    ['The largest of 2 classes, cat, has 9.0 times the rows of the smallest, dog (90 : 10, copies included); among kept rows it is 3.0 times (12 : 4)']
    """
    if len(labels) < 2 or cut_off:
        return []
    by = sorted(labels, key=lambda row: (-row["rows"], str(row["group"])))
    first, last = by[0], by[-1]
    text = (
        f"The largest of {len(by):,} classes, {cut(str(first['group']), 40)}, has {_times(first['rows'], last['rows'])} the rows of "
        f"the smallest, {cut(str(last['group']), 40)} ({first['rows']:,} : {last['rows']:,}, copies included)"
    )
    kept = [row["kept"] for row in by]
    most, least, none = max(kept), min(kept), sum(not n for n in kept)
    if none:
        return [f"{text}; {none:,} {'class keeps' if none == 1 else 'classes keep'} no row"]
    return [f"{text}; among kept rows it is {_times(most, least)} ({most:,} : {least:,})"]


def say_spread(complexity: Facts | None, balance: Facts | None) -> list[str]:
    """Return whether the budgets of concepts differ from equal ones, as far as the method gives budgets."""
    if complexity:
        even = complexity["effective_share"] > DECIDES_NOTHING
        return [
            f"Budgets of concepts {'are as good as equal' if even else 'differ from equal ones'}: {said_of(complexity)}"
        ]
    return [_first_large(text.partition(": ")[2]) for text in say_concepts(None, balance)]


def say_chance(evaluation: Facts) -> list[str]:
    """Return how the run compares with random draws of as many rows, where that was judged."""
    if not evaluation:
        return []
    stale = " (found of an earlier decision)" if evaluation["stale"] else ""
    return [f"Against random draws{stale}: {text}" for text in evaluation["says"][:1]]


def say_auto(auto: Facts | None) -> list[str]:
    """Return what method auto chose.

    >>> say_auto({"recipe": "select: {method: random, keep: 0.3, drop_noise: 0.13026052104208416}"})
    ['Method auto chose select: method random, keep 0.3, drop_noise 0.1303']
    """
    if not auto:
        return []
    chosen = read_yaml(auto["recipe"]) or {}
    said = [
        f"{stage}: {', '.join(f'{name} {_in_short(value)}' for name, value in settings.items())}"
        for stage, settings in sorted(chosen.items(), key=lambda item: item[0] != "select")
        if isinstance(settings, Mapping)
    ]
    return [f"Method auto chose {'; '.join(said)}"] if said else []


def _in_short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()


def _warned(warnings: Sequence[str]) -> list[Matter]:
    if not warnings:
        return []
    many = f"{len(warnings):,} warnings, the first" if len(warnings) > 1 else "1 warning"
    return [Matter(f"{many}: {cut(warnings[0], _WARNING)}", warns=True)]


def _next(run: RunFolder, found: RunSummary, evaluation: Facts, *, can_judge: bool) -> Matter:
    """Return the command to type next: the first that applies of what is to finish, to judge, and to try."""
    if missing := [stage for stage in found.missing if stage != "report"]:  # which may be writing this
        return Matter(f"Next: finish {', '.join(missing)}", f"curate run {run.recipe}")
    if evaluation and evaluation["stale"]:
        return Matter(
            "Next: see whether the present decision is better than a random draw, as the earlier one was asked",
            f"curate evaluate {run.where}",
        )
    if can_judge and not evaluation:
        return Matter(
            "Next: see whether it is better than a random draw, which nobody judged yet",
            f"curate evaluate {run.where}",
        )
    return Matter("Next: see what other settings would keep", f"curate plan {run.where}")


def _share(part: int, whole: int) -> str:
    return share(part, whole).replace(SPACE, " ")


def _times(most: int, least: int) -> str:
    return f"{most / least:,.1f} times" if least else "more than any number of times"


def _first_large(text: str) -> str:
    return text[:1].upper() + text[1:]
