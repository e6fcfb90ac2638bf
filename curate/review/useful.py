"""What is most useful to look at next, how right a score is about what it flags, and the cut that this proposes.

Rows are offered from two lists in turn. The first is a random order (by the hash of the uid) of the rows that the score
flags: what was decided at the head of it is a random sample, whatever else was looked at, so it measures the precision.
The second has the rows nearest to the cut: their answers say where it should be.
"""

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.errors import UsageError
from curate.review.doubt import proposed_cut, wilson
from curate.review.table import RowTable, identifier

__all__ = ["QUEUES", "Queue", "queues_of", "useful"]

#: Rows of the random order that may have been decided.
MOST_LOOKED = 20_000
#: Where nothing else says where the cut is, this share of the rows is flagged.
WORST = 0.05
#: What a person decides, and which verdict on the flag it is.
LABELS: Mapping[str, bool] = {"wrong_label": True, "right_label": False}
KEEPS: Mapping[str, bool] = {"drop": True, "keep": False}
NEAR: Mapping[str, bool] = {"drop": True, "not_duplicate": False}


@dataclass(frozen=True)
class Queue:
    """Rows that one score flags.

    Attributes
    ----------
    name : str
        What it is called.
    column : str
        The column of the table of rows that it goes by.
    high_is_bad : bool
        Whether high values are flagged.
    verdicts : dict
        Whether a decision says that the flag is right, by its kind.
    only : str
        Which rows count at all, as SQL.
    command : str
        What applies a cut, with {cut}.
    """

    name: str
    column: str
    high_is_bad: bool
    verdicts: Mapping[str, bool]
    only: str
    command: str

    def beyond(self, cut: str) -> str:
        """Return the condition of rows that are flagged at a cut, as SQL."""
        return f"{identifier(self.column)} {'>=' if self.high_is_bad else '<='} {cut}"


#: The columns that each kind of flag can go by, the best first.
QUEUES: Mapping[str, Sequence[tuple[str, bool]]] = {
    "labels": (("noise_label", True), ("neg_aum", True), ("el2n", True)),
    "pairs": (("clip_score", False), ("nce", True), ("nce_norm", True)),
    "near": (("near", True),),
}


def queues_of(table: RowTable, run: str) -> dict[str, Queue]:
    """Return the queues that a run has scores for, by name; the pairs by each of their scores (`pairs:nce`)."""
    found: dict[str, Queue] = {}
    run = shlex.quote(run)
    for name, columns in QUEUES.items():
        there = [(column, high) for column, high in columns if column in (*table.scores, "near")]
        if name == "labels" and "pred_label" not in table.columns:
            continue
        for place, (column, high) in enumerate(there):
            sign = "<" if high else ">"
            command = f"curate select {run} --where '{column} {sign} {{cut}}'"
            only = f"{identifier(column)} is not null"
            verdicts = KEEPS
            if name == "near":
                command, verdicts = f"curate run {run}/recipe.yaml --set dedup.epsilon={{cut}}", NEAR
            if name == "labels":
                only, verdicts = f"{only} and label is not null and pred_label <> label", LABELS
            queue = Queue(name if not place else f"{name}:{column}", column, high, verdicts, only, command)
            found[queue.name] = queue
            if name == "labels":
                break
    return found


def default_cut(table: RowTable, queue: Queue) -> float | None:
    """Return where the cut of a queue is, where nobody says: all of it for labels, else the worst rows; None without rows."""
    name, share = identifier(queue.column), 0.0 if queue.name == "labels" else WORST
    if queue.high_is_bad and share:
        share = 1 - share
    asked = f"select quantile_disc({name}, ?) as cut from rows where {queue.only}"
    [row] = table.ask(asked, [share])
    return None if row["cut"] is None else float(row["cut"])


def useful(
    table: RowTable, queue: Queue, *, cut: float | None = None, target: float = 0.5, limit: int = 24
) -> dict[str, Any]:
    """Return what to look at next in a queue, what was measured so far, and the cut that it proposes.

    cut : rows beyond it are flagged. target : the share of wrong rows that is worth dropping rows for.
    Keys: column, cut, flagged, looked (of the flagged), sample (n, wrong, precision, low, high: of the random sample), proposal (None
    while too little was seen), next (numbers of rows).
    """
    if not 0 < target < 1:
        raise UsageError(f"target must be between 0 and 1, got {target:g}")
    cut = default_cut(table, queue) if cut is None else cut
    found: dict[str, Any] = {
        "queue": queue.name, "column": queue.column, "cut": cut, "high_is_bad": queue.high_is_bad, "target": target,
        "flagged": 0, "looked": 0, "sample": _sample([]), "proposal": None, "next": [],
    }  # fmt: skip
    if cut is None:
        return found
    seen = _seen(table, queue)
    beyond = [one for one in seen if (one["value"] >= cut if queue.high_is_bad else one["value"] <= cut)]
    [count] = table.ask(
        f"select count(*) as c from rows where {queue.only} and occurrence = 0 and {queue.beyond('?')}", [cut]
    )
    drawn = _drawn(table, queue, cut, limit)
    verdict = {one["uid"]: one["bad"] for one in beyond}
    first = next((place for place, one in enumerate(drawn) if one["uid"] not in verdict), len(drawn))
    found |= {
        "flagged": count["c"],
        "looked": len(beyond),
        "sample": _sample([verdict[one["uid"]] for one in drawn[:first]]),
        "proposal": _proposal(table, queue, seen, target),
    }
    aim = found["proposal"]["cut"] if found["proposal"] else cut
    known = {one["uid"] for one in seen}
    random = [one["n"] for one in drawn[first:] if one["uid"] not in known]
    found["next"] = _in_turn(random, _nearest(table, queue, aim, limit), limit)
    return found


def _seen(table: RowTable, queue: Queue) -> list[dict[str, Any]]:
    """Return the rows that have a verdict: uid, value, bad."""
    said = ", ".join(f"'{what}'" for what in queue.verdicts)
    bad = ", ".join(f"'{what}'" for what, right in queue.verdicts.items() if right)
    return table.ask(
        f"""with r as (select uid, {identifier(queue.column)} as value from rows where {queue.only} and occurrence = 0)
        select r.uid as uid, any_value(r.value) as value, bool_or(d.what in ({bad})) as bad from r join decided d
        on r.uid = d.uid where d.what in ({said}) group by r.uid order by r.uid"""
    )


def _drawn(table: RowTable, queue: Queue, cut: float, limit: int) -> list[dict[str, Any]]:
    """Return the flagged rows in their random order, as far as it may have been decided, and `limit` behind that."""
    salt = hashlib.blake2b(queue.name.encode(), digest_size=4).hexdigest()
    [known] = table.ask("select count(distinct uid) as c from decided")
    most = min(MOST_LOOKED, known["c"] + limit)
    return table.ask(
        f"select n, uid from rows where {queue.only} and occurrence = 0 and {queue.beyond('?')} "
        f"order by md5(uid || '{salt}'), uid limit {most}", [cut],
    )  # fmt: skip


def _nearest(table: RowTable, queue: Queue, cut: float, limit: int) -> list[int]:
    """Return the rows nearest to a cut that nobody decided about."""
    said = ", ".join(f"'{what}'" for what in queue.verdicts)
    rows = table.ask(
        f"select n from rows where {queue.only} and occurrence = 0 and uid not in (select uid from decided where what in ({said})) "
        f"order by abs({identifier(queue.column)} - ?), n limit {limit}", [cut],
    )  # fmt: skip
    return [int(row["n"]) for row in rows]


def _in_turn(first: Sequence[int], second: Sequence[int], limit: int) -> list[int]:
    """Return numbers from two lists in turn, each once.

    >>> _in_turn([1, 2, 3], [2, 9], 4)
    [1, 2, 9, 3]
    """
    turns = [
        one
        for pair in zip([*first, *[-1] * len(second)], [*second, *[-1] * len(first)], strict=False)
        for one in pair
    ]
    return list(dict.fromkeys(one for one in turns if one >= 0))[:limit]


def _sample(verdicts: Sequence[bool]) -> dict[str, Any]:
    wrong, n = sum(verdicts), len(verdicts)
    low, high = wilson(wrong, n)
    return {"n": n, "wrong": wrong, "precision": wrong / n if n else None, "low": low, "high": high}


def _proposal(
    table: RowTable, queue: Queue, seen: Sequence[Mapping[str, Any]], target: float
) -> dict[str, Any] | None:
    """Return the cut that the verdicts propose, how many rows are beyond it, and what applies it."""
    pairs = [(float(one["value"]), bool(one["bad"])) for one in seen]
    cut = proposed_cut(pairs, target=target, high_is_bad=queue.high_is_bad)
    if cut is None:
        return None
    [count] = table.ask(
        f"select count(*) as c from rows where {queue.only} and occurrence = 0 and {queue.beyond('?')}",
        [cut.value],
    )
    low, high = wilson(cut.wrong, cut.looked)
    said = f"{1 - cut.value:.6f}" if queue.name == "near" else f"{cut.value:.6g}"
    return {
        "cut": cut.value, "said": said, "beyond": count["c"], "looked": cut.looked, "wrong": cut.wrong, "low": low, "high": high,
        "open": cut.open, "command": queue.command.replace("{cut}", said), "seen": len(seen),
    }  # fmt: skip
