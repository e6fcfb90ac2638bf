"""What a run leaves in Prefect's own pages: how far it is, counts, concepts, and a link to its report."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast
from uuid import UUID

import httpx
import polars as pl
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from curate import schema
from curate.analysis.summary.matters import what_matters
from curate.analysis.summary.summary import RunSummary, summarize
from curate.flows.report_links import ReportLink
from curate.io.names import in_markdown
from curate.progress import Meter
from curate.report.model import Matter
from curate.runs.folder import RunFolder

__all__ = [
    "CONCEPTS", "COUNTS", "PROGRESS", "REPORT", "Progress", "concept_rows", "counts_table", "how_to_look", "publish",
]  # fmt: skip

#: Keys of the artifacts.
COUNTS, CONCEPTS, PROGRESS, REPORT = "curate-counts", "curate-concepts", "curate-progress", "curate-report"
#: How many concepts the table shows.
LARGEST = 100
#: Progress is sent at most this often; each time costs the server some milliseconds.
EVERY_S = 5.0

log = logging.getLogger("curate")


@contextlib.contextmanager
def _optional(what: str) -> Iterator[None]:
    """Let a run go on where the server cannot take an artifact."""
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError) as error:
        log.warning("the artifact %s could not be sent: %s", what, error)


class Progress:
    """Shows how far a run is, as a share of its stages; called by stages as they go on.

    stages : those that will run, in order. clock : seconds, never going back.
    """

    def __init__(self, stages: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stages, self._clock, self._meter = list(stages), clock, Meter()
        self._at, self._share, self._sent = 0, 0.0, clock()
        self._id: UUID | None = None
        with _optional(PROGRESS):
            # Outside of a coroutine it is an id, not a coroutine of one, as its type allows for.
            self._id = cast(UUID, create_progress_artifact(0.0, key=PROGRESS, description="begins"))

    def begin(self, stage: str) -> None:
        """Say that a stage begins; those before it are done."""
        self._at, self._share = self._stages.index(stage), 0.0
        self._send(stage)

    def end(self) -> None:
        """Say that everything is done."""
        self._at, self._share = len(self._stages), 0.0
        self._send("done")

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        """Take a report of the stage that runs; send it if the last is some seconds old."""
        pace = self._meter.update(stage, done, total, unit)
        # A stage may count several times (its parts, then its buckets): never go back.
        self._share = max(self._share, done / total if total else 0.0)
        if self._clock() - self._sent >= EVERY_S:
            self._send(pace.line())

    def _send(self, text: str) -> None:
        self._sent = self._clock()
        percent = min(100.0, 100 * (self._at + self._share) / len(self._stages))
        if self._id is not None:
            with _optional(PROGRESS):
                update_progress_artifact(self._id, round(percent, 1), description=text)


def publish(run: RunFolder, manifest: Mapping[str, Any], report: ReportLink) -> None:
    """Leave the counts, the largest concepts and how to look at the report of a finished run."""
    found = summarize(run, concepts=LARGEST, whole=False)
    with _optional(COUNTS):
        matters = what_matters(run, found)
        told = {one.text.lower() for one in matters}
        warnings = [*manifest["stages"]["cluster"].get("warnings", ()), *found.said]
        said = [f"- {in_markdown(text)}" for text in warnings if text.lower() not in told]
        counts = counts_table(str(run.path), found.counts or manifest["counts"], matters)
        create_markdown_artifact("\n".join([counts, *(["", *said] if said else [])]), key=COUNTS)
    with _optional(CONCEPTS):
        rows = concept_rows(found)
        total = 0 if found.concepts is None else len(found.concepts)
        what = f"The {len(rows):,} largest of {total:,} concepts of {in_markdown(run.where)}"
        create_table_artifact(rows, key=CONCEPTS, description=what)
    with _optional(REPORT):
        name, how = f"Report of {in_markdown(run.where)}", how_to_look(report)
        if report.url is None:
            create_markdown_artifact(f"{name}: {how}", key=REPORT)
        else:
            create_link_artifact(report.url, link_text=name, key=REPORT, description=how)


def how_to_look(report: ReportLink) -> str:
    """Return how to look at a report besides by its link, as a line of Markdown.

    >>> print(how_to_look(ReportLink(None, "Nothing shows it.", "curate report 'a b' --open", "host")))
    Nothing shows it. On host, type `curate report 'a b' --open`
    """
    return f"{report.said} On {report.machine}, type {_code(report.command)}"


def concept_rows(summary: RunSummary) -> list[dict[str, Any]]:
    """Return the largest concepts of a decided run as rows: what they are called, where they have names, and their budgets."""
    largest = summary.listed["largest"]
    first, *others = schema.DECISION_CONCEPTS.names
    largest = largest.select(first, *(name for name in ("name",) if name in largest.columns), *others)
    return largest.with_columns(pl.selectors.float().cast(pl.Float64).round(4)).to_dicts()


def counts_table(run: str, counts: Mapping[str, Any], matters: Sequence[Matter] = ()) -> str:
    r"""Return what matters about a run in sentences, then its counts as a table of Markdown: rows in, kept, dropped and unusable by reason.

    >>> counts = {"rows": 4, "kept": 2, "dropped": {"over_budget": 2}, "unusable": {}}
    >>> print(counts_table("runs/a", counts, [Matter("Next: see more", "curate plan a"), Matter("1 is <b>", warns=True)]))
    ### runs/a
    <BLANKLINE>
    - Next: see more: `curate plan a`
    - **1 is &lt;b&gt;**
    <BLANKLINE>
    | rows | number | share |
    | --- | ---: | ---: |
    | in | 4 | 100.0 % |
    | kept | 2 | 50.0 % |
    | dropped: over_budget | 2 | 50.0 % |
    """
    lines = [("in", counts["rows"]), ("kept", counts["kept"])]
    for group in ("dropped", "unusable"):
        lines += [(f"{group}: {in_markdown(reason)}", number) for reason, number in counts[group].items()]
    total = max(counts["rows"], 1)
    table = [f"| {name} | {number:,} | {100 * number / total:.1f} % |" for name, number in lines]
    sentences = [*map(_sentence, matters), ""] if matters else []
    head = ["| rows | number | share |", "| --- | ---: | ---: |"]
    return "\n".join([f"### {in_markdown(run)}", "", *sentences, *head, *table])


def _sentence(one: Matter) -> str:
    """Return a sentence as an item of a list; what came from the data is no markup."""
    text = in_markdown(one.text)
    text = f"**{text}**" if one.warns else text
    return f"- {text}" + (f": {_code(one.command)}" if one.command else "")


def _code(command: str) -> str:
    """Return a command as code. The path of a run may hold backticks: the fence is longer than any of them."""
    line = " ".join(command.splitlines())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
