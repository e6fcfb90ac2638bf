"""What the page asks for, as plain values for JSON: the queries of `curate review`, apart from how they travel."""

import contextlib
import shlex
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from curate.analysis.explain import explain
from curate.analysis.search import Query, judged_search, text_model
from curate.analysis.summary.concepts import stored_names
from curate.analysis.summary.said import say_doubtful
from curate.analysis.summary.thumbnails import Place
from curate.errors import CurateError, SourceError, UsageError
from curate.execution.context import Context
from curate.io.yaml import read_yaml
from curate.overrides.store import user_name
from curate.recipe.types import default_memory
from curate.report.explained import why_lines
from curate.review.concept_cards import concept_rows
from curate.review.decisions import Decisions
from curate.review.filters import LIMIT, RowFilter, whole
from curate.review.groups import NearGroups, copies
from curate.review.pictures import Pictures
from curate.review.table import RowTable, identifier
from curate.review.useful import Queue, queues_of, useful
from curate.scores.registry import score_columns

__all__ = ["Site"]

#: What is told of every row of a list.
TOLD = (
    "n", "uid", "caption", "label", "reason", "fault", "outcome", "keep", "concept", "width", "height", "shard", "row",
    "key", "occurrence", "margin", "near",
)  # fmt: skip
#: Groups of a page, and rows of one group that are shown.
GROUPS, IN_GROUP = 20, 40
#: Epsilon where a run has none.
EPSILON = 0.05
Params = Mapping[str, str]


class Site:
    """A run that is reviewed: its rows, pictures and decisions.

    Parameters
    ----------
    context : Context
        The finished run with its parts.
    read_only : bool
        Whether nothing can be decided.
    """

    def __init__(self, context: Context, *, read_only: bool = False) -> None:
        self.context, self.read_only = context, read_only
        recipe = read_yaml(context.run.recipe_text()) or {}
        self.table = RowTable(context, int(recipe.get("memory") or default_memory()) // 2)
        self.decisions = Decisions(context.run, self.table)
        self._near = NearGroups(context, self.table)
        self.pictures = {size: Pictures(context, size, self._placed) for size in ("small", "large")}
        self._marked = context.run.marker(context.run.decisions)
        self._counts: dict[str, int] = {}
        self._preparing = threading.Thread(target=self._prepare, name="tables", daemon=True)
        self._concepts: list[dict[str, Any]] | None = None
        self._concepts_held, self._model_held = threading.Lock(), threading.Lock()
        self._model: Any = None

    def open(self) -> None:
        """Begin to read the tables; whoever asks waits until they are there."""
        self._preparing.start()

    def _prepare(self) -> None:
        self.table.load()
        with contextlib.suppress(CurateError):  # said to whoever asks
            self.concepts()

    def close(self) -> None:
        """End what works for the page, and wait for it."""
        self.table.stop()
        if self._preparing.ident is not None:
            self._preparing.join()
        for pictures in self.pictures.values():
            pictures.close()
        self.table.close()

    # The run

    def about(self) -> dict[str, Any]:
        """Return what the page needs to know of the run before it shows anything."""
        rows = self.table.ask(
            "select reason, keep, outcome, count(*) as n from rows group by all order by n desc, reason"
        )
        reasons = [{"reason": one["reason"], "n": one["n"], "kept": bool(one["keep"])} for one in rows]
        unusable = sum(one["n"] for one in rows if one["outcome"] != "ok")
        queues = {
            name: {"column": one.column, "high_is_bad": one.high_is_bad} for name, one in self._queues.items()
        }
        return {
            "run": self.context.run.where, "apply": f"curate select {shlex.quote(self.context.run.where)} --write", "read_only": self.read_only, "user": user_name(), "rows": sum(one["n"] for one in rows),
            "kept": sum(one["n"] for one in rows if one["keep"]), "unusable": unusable, "reasons": reasons,
            "columns": self.table.columns, "scores": self._scores(), "labels": self._values("label"),
            "sources": self._values("source"), "splits": self._values("split"), "queues": queues,
            "copies": sum(one["n"] for one in rows if one["reason"] == "exact_duplicate"),
            "epsilon": self._epsilon, "near": self._has_near, "searchable": not self.context.recipe.embed.own_vectors,
            "pictures": any(part.columns.image for part in self.context.parts), "decided": self.decisions.counts(),
            "seen": self.decisions.follow(), **self._doubtful(),
        }  # fmt: skip

    @cached_property
    def _queues(self) -> dict[str, Queue]:
        return queues_of(self.table, self.context.run.where)

    def _doubtful(self) -> dict[str, Any]:
        """Return how many labels are to be looked at, and the sentence on these that the report has too."""
        if "labels" not in self._queues:
            return {"doubtful": 0, "doubtful_says": ""}
        [row] = self.table.ask(f"select count(*) as c from rows where {self._queues['labels'].only}")
        run = self.context.run
        errors = self.context.facts(run.scores("heads")).get("label_errors")
        return {"doubtful": int(row["c"]), "doubtful_says": say_doubtful(errors, int(row["c"]))}

    def _scores(self) -> list[dict[str, Any]]:
        """Return the scores that there are, their range and what is bad."""
        directions = {name: column.higher_is for name, column in score_columns(self.context.recipe).items()}
        names = list(self.table.scores)
        if not names:
            return []
        asked = ", ".join(
            f"min({identifier(name)}), max({identifier(name)}), quantile_cont({identifier(name)}, 0.5)"
            for name in names
        )
        [row] = self.table.ask(f"select {asked} from rows")
        values = list(row.values())
        return [
            {
                "name": name, "higher_is": directions.get(name), "min": values[3 * place], "max": values[3 * place + 1],
                "median": values[3 * place + 2],
            }
            for place, name in enumerate(names)
        ]  # fmt: skip

    def _values(self, column: str) -> list[str]:
        rows = self.table.ask(
            f"select {column} as value from rows where {column} is not null group by {column} order by count(*) desc, {column} limit 2000"
        )
        return [str(row["value"]) for row in rows]

    @property
    def _epsilon(self) -> float:
        found = self.context.facts(self.context.run.duplicates).get("epsilon")
        return EPSILON if found is None else float(found)

    @cached_property
    def _has_near(self) -> bool:
        return bool(self.table.ask("select 1 from rows where near is not null limit 1"))

    # Rows

    def rows(self, params: Params) -> dict[str, Any]:
        """Return one page of the rows that a filter lets through, how many they are, and begin to read their pictures."""
        asked = RowFilter.of(params, self.table.columns)
        if asked.own or "decided" in params:
            self.decisions.follow()
        limit = min(LIMIT, max(1, whole("limit", params.get("limit", "60"))))
        offset = max(0, whole("offset", params.get("offset", "0")))
        extra = params.get("order") or params.get("score")
        # Numbers first: sorting whole rows for a page far behind takes seconds.
        found = self.table.ask(f"{asked.sql('n')} limit {limit} offset {offset}", asked.parameters)
        rows = self.numbered([row["n"] for row in found], extra)
        return {
            "total": self._total(asked, bool(params.get("decided")), len(rows), limit, offset),
            "rows": rows,
        }

    def _total(self, asked: RowFilter, changes: bool, found: int, limit: int, offset: int) -> int:
        if found < limit and (found or not offset):
            return offset + found
        key = repr((asked.where, asked.parameters, asked.own))
        if changes or "decided" in asked.own or key not in self._counts:
            if len(self._counts) > 500:
                self._counts.clear()
            [row] = self.table.ask(asked.sql("count(*) as c", ordered=False), asked.parameters)
            self._counts[key] = int(row["c"])
        return self._counts[key]

    def _columns(self, extra: str | None = None) -> str:
        names = [*TOLD, *(["pred_label"] if "pred_label" in self.table.columns else [])]
        chance = self._chance
        told = [*names, *([f"{chance} as chance"] if chance else [])]
        return ", ".join([*told, *([f"{identifier(extra)} as value"] if extra else [])])

    @cached_property
    def _names(self) -> dict[int, str]:
        return stored_names(self.context.run)

    @cached_property
    def _chance(self) -> str | None:
        """What estimates the chance that a label is wrong, as SQL: of the noise model, else of the heads."""
        known = self.table.columns
        return next(
            (
                sql
                for name, sql in (("noise_label", "noise_label"), ("p_label", "1 - p_label"))
                if name in known
            ),
            None,
        )

    def numbered(self, numbers: Sequence[int], extra: str | None = None) -> list[dict[str, Any]]:
        """Return what is told of rows by their numbers, in that order. extra : a column to tell besides, as `value`."""
        if not numbers:
            return []
        asked = f"select {self._columns(extra)} from rows where n in (select unnest(?))"
        known = {row["n"]: row for row in self.table.ask(asked, [list(numbers)])}
        rows = [known[number] for number in numbers if number in known]
        decided = self.decisions.of([row["uid"] for row in rows])
        for row in rows:
            row["decided"] = decided.get(row["uid"], {})
            row["concept_name"] = self._names.get(row["concept"])
        self.pictures["small"].expect([row["n"] for row in rows])
        return rows

    def _placed(self, numbers: Sequence[int]) -> dict[int, Place]:
        rows = self.table.ask("select n, part, row from rows where n in (select unnest(?))", [list(numbers)])
        return {row["n"]: Place(row["part"], row["row"]) for row in rows}

    def row(self, number: int) -> dict[str, Any]:
        """Return all that is known of a row: every column, and its scores with their percentiles."""
        found = self.table.ask("select * from rows where n = ?", [number])
        if not found:
            raise UsageError(f"there is no row {number:,} in this run")
        row = found[0]
        directions = {one["name"]: one["higher_is"] for one in self._score_ranges}
        names = [name for name, higher_is in directions.items() if higher_is and row[name] is not None]
        scores = []
        if names:
            asked = ", ".join(
                f"(sum(({identifier(name)} < ?)::int) + sum(({identifier(name)} = ?)::int) / 2) / count({identifier(name)})"
                for name in names
            )
            [shares] = self.table.ask(
                f"select {asked} from rows", [row[name] for name in names for _ in (1, 2)]
            )
            scores = [
                {
                    "name": name,
                    "value": row[name],
                    "percentile": 100 * share,
                    "higher_is": directions.get(name),
                }
                for name, share in zip(names, shares.values(), strict=True)
            ]
        decided = self.decisions.of([row["uid"]]).get(row["uid"], {})
        others = self.table.ask(
            "select n from rows where uid = ? order by occurrence limit 1", [row["duplicate_of"]]
        )
        return {
            "row": row,
            "scores": scores,
            "decided": decided,
            "original": others[0]["n"] if others else None,
        }

    @cached_property
    def _score_ranges(self) -> list[dict[str, Any]]:
        return self._scores()

    def why(self, number: int) -> list[str]:
        """Return why a row was kept or dropped, and what would decide otherwise, in sentences."""
        found = self.table.ask("select shard, row from rows where n = ?", [number])
        if not found:
            raise UsageError(f"there is no row {number:,} in this run")
        facts = explain(self.context, f"{found[0]['shard']}:{found[0]['row']}")
        return [line.strip() for line in why_lines(facts)]

    # Groups and concepts

    def near(self, params: Params) -> dict[str, Any]:
        """Return groups of near-duplicates at an epsilon."""
        epsilon = _positive("epsilon", params.get("epsilon", f"{self._epsilon}"))
        offset = max(0, whole("offset", params.get("offset", "0")))
        groups, more = self._near.page(epsilon, offset, GROUPS)
        found = []
        for group in groups:
            similar = dict(zip(group.rows, group.similarity, strict=True))
            rows = self.numbered(group.rows[:IN_GROUP])
            for row in rows:
                row["similarity"] = similar[row["n"]]
            found.append({"rows": rows, "size": len(group.rows)})
        counted = self.table.ask("select count(*) as c from rows where near > ?", [1 - epsilon])[0]["c"]
        return {
            "epsilon": epsilon,
            "groups": found,
            "more": more,
            "rows": counted if self._has_near else None,
        }

    def copies(self, params: Params) -> dict[str, Any]:
        """Return groups of exact copies."""
        offset = max(0, whole("offset", params.get("offset", "0")))
        groups = copies(self.table, offset, GROUPS + 1)
        found = [{"rows": self.numbered(rows[:IN_GROUP]), "size": len(rows)} for rows in groups[:GROUPS]]
        return {"groups": found, "more": len(groups) > GROUPS}

    def concepts(self) -> list[dict[str, Any]]:
        """Return the concepts with what they are called, where they lie on the map, and their most typical rows."""
        with self._concepts_held:
            if self._concepts is None:
                self._concepts = concept_rows(self.context.run, self.table)
            return self._concepts

    # Search

    def search(self, params: Params, picture: bytes | None = None) -> dict[str, Any]:
        """Return the rows that fit a text, a picture, or are like a row; why there are none; and whether there may be more."""
        top = min(LIMIT, max(1, whole("top", params.get("top", "60"))))
        with tempfile.TemporaryDirectory(prefix="curate-review-") as folder:
            if picture is not None:
                image = Path(folder) / "picture"
                image.write_bytes(picture)
                query = Query(image=image)
            elif params.get("like"):
                query = Query(uid=params["like"])
            else:
                query = Query(text=params.get("text", ""))
            threshold = 0.0 if params.get("any") else 0.5
            clip = None if query.uid is not None else self._clip()
            try:
                found, answer = judged_search(
                    self.context.run.where, query, top=top, on="image", concept=None, kept=None, threshold=threshold, clip=clip
                )  # fmt: skip
            except SourceError as error:
                if picture is None:
                    raise
                # Whoever dropped the picture knows no file of that name.
                said = str(error).removeprefix(f"--image: {query.image}: ")
                raise UsageError(f"the picture cannot be searched for: {said}") from None
        hits = {row["uid"]: row for row in found.to_dicts()}
        numbers = self.table.ask(
            "select n, uid from rows where occurrence = 0 and uid in (select unnest(?))", [list(hits)]
        )
        place = {row["uid"]: row["n"] for row in numbers}
        rows = self.numbered([place[uid] for uid in hits if uid in place])
        for row in rows:
            row |= {name: hits[row["uid"]][name] for name in ("similarity", "relevance")}
        empty = None if rows or answer is None else answer.why_empty()
        return {"rows": rows, "empty": empty, "more": len(rows) == top}

    def _clip(self) -> Any:  # noqa: ANN401  (a model, of a library that is slow to import)
        with self._model_held:
            self._model = self._model or text_model(self.context.run)
            return self._model

    # Decisions

    def useful(self, params: Params) -> dict[str, Any]:
        """Return what to look at next in a queue, what was measured, and the cut that it proposes."""
        name = params.get("queue", "")
        if name not in self._queues:
            raise UsageError(
                f"there is no queue {name[:40]!r}; there are {', '.join(self._queues) or 'none'}"
            )
        self.decisions.follow()
        cut = _finite("cut", params["cut"]) if params.get("cut") else None
        if cut is None and name == "near":
            cut = 1 - self._epsilon
        target = _finite("target", params.get("target", "0.5"))
        found = useful(self.table, self._queues[name], cut=cut, target=target)
        rows = self.numbered(found["next"], self._queues[name].column)
        if name == "near":
            partners = {row["n"]: self._near.partner(row["n"]) for row in rows}
            told = {
                row["n"]: row for row in self.numbered([one for one in partners.values() if one is not None])
            }
            rows = [{**row, "partner": told.get(partners[row["n"]])} for row in rows]
        return {**found, "next": rows}

    def changes(self, since: int) -> dict[str, Any]:
        """Return what was decided since, and whether the run is another by now."""
        stale = self.context.run.marker(self.context.run.decisions) != self._marked
        return {**self.decisions.changes(since), "counts": self.decisions.counts(), "stale": stale}

    def decide(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Write down a decision, an undo or a redo; return the action, and what holds now of the rows that were asked about."""
        if self.read_only:
            raise UsageError("this page is read-only: nothing can be decided")
        turn = given.get("turn")
        since = self.decisions.follow()
        if turn in ("undo", "redo"):
            action = self.decisions.turn(given.get("by"), turn, _text("action", given.get("action")))
        else:
            uids = given.get("uids")
            if not isinstance(uids, list) or not all(isinstance(uid, str) for uid in uids):
                raise UsageError("uids must be a list of texts")
            what = _text("what", given.get("what")) or ""
            action = self.decisions.decide(given.get("by"), uids, what, _text("to", given.get("to")))
        return {"action": action, **self.changes(since)}


def _text(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{name} must be a text, got {type(value).__name__}")
    return value


def _finite(name: str, value: str) -> float:
    try:
        found = float(value)
    except ValueError:
        found = float("nan")
    if not -1e30 < found < 1e30:
        raise UsageError(f"{name} must be a number, got {value[:40]!r}")
    return found


def _positive(name: str, value: str) -> float:
    found = _finite(name, value)
    if not 0 < found < 1:
        raise UsageError(f"{name} must be between 0 and 1, got {value[:40]!r}")
    return found
