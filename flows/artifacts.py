"""What a run leaves in Prefect's own pages: how far it is, counts, concepts, and where its report is."""

import contextlib
import logging
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
from curate.analysis.summary.summary import RunSummary, summarize
from curate.progress import Meter
from curate.runs.folder import RunFolder

__all__ = ["CONCEPTS", "COUNTS", "PROGRESS", "REPORT", "Progress", "concept_rows", "counts_table", "publish"]

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


def publish(run: RunFolder, manifest: Mapping[str, Any]) -> None:
    """Leave the counts, the largest concepts and the place of the report of a finished run."""
    found = summarize(run, concepts=LARGEST, whole=False)
    with _optional(COUNTS):
        warnings = [f"- {text}" for text in manifest["stages"]["cluster"].get("warnings", ())]
        warnings += [f"- {text}" for text in found.said]
        counts = counts_table(str(run.path), found.counts or manifest["counts"])
        create_markdown_artifact("\n".join([counts, *(["", *warnings] if warnings else [])]), key=COUNTS)
    with _optional(CONCEPTS):
        rows = concept_rows(found)
        total = 0 if found.concepts is None else len(found.concepts)
        what = f"The {len(rows):,} largest of {total:,} concepts of {run.where}"
        create_table_artifact(rows, key=CONCEPTS, description=what)
    with _optional(REPORT):
        page = (run.report / "report.html").resolve()
        create_link_artifact(
            page.as_uri(), link_text=str(page), key=REPORT, description=f"Report of {run.where}"
        )


def concept_rows(summary: RunSummary) -> list[dict[str, Any]]:
    """Return the largest concepts of a decided run as rows, with the columns of its table of budgets."""
    largest = summary.listed["largest"].select(schema.DECISION_CONCEPTS.names)
    return largest.with_columns(pl.selectors.float().cast(pl.Float64).round(4)).to_dicts()


def counts_table(run: str, counts: Mapping[str, Any]) -> str:
    """Return the counts of a run as a Markdown table: rows in, kept, dropped and unusable by reason.

    >>> print(counts_table("runs/a", {"rows": 4, "kept": 2, "dropped": {"over_budget": 2}, "unusable": {}}))
    ### runs/a
    <BLANKLINE>
    | rows | number | share |
    | --- | ---: | ---: |
    | in | 4 | 100.0 % |
    | kept | 2 | 50.0 % |
    | dropped: over_budget | 2 | 50.0 % |
    """
    lines = [("in", counts["rows"]), ("kept", counts["kept"])]
    for group in ("dropped", "unusable"):
        lines += [(f"{group}: {_cell(reason)}", number) for reason, number in counts[group].items()]
    total = max(counts["rows"], 1)
    table = [f"| {name} | {number:,} | {number / total:.1%} |".replace("%", " %") for name, number in lines]
    return "\n".join([f"### {run}", "", "| rows | number | share |", "| --- | ---: | ---: |", *table])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
