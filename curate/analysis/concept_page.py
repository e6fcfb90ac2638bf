"""The page of one concept, for those that have no gallery in the report of their run."""

from pathlib import Path

from curate.analysis.summary import galleries
from curate.analysis.summary.concepts import concept_table
from curate.analysis.summary.picks import LIMITS
from curate.analysis.summary.report_data import report_request
from curate.analysis.summary.scan import scan_parts
from curate.errors import RunError, UsageError
from curate.execution.context import Context, Progress, silent
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.io import storage
from curate.recipe.loading import load_recipe
from curate.report import page
from curate.runs.run import open_run

__all__ = ["write_concept_page"]

#: A page of its own has room for more samples than one of many galleries.
PER_LIST, PAIRS = 48, 24
_LISTS = ("hardest_kept", "easiest_dropped", "kept_drawn", "dropped_drawn", "farthest", "most_typical")


def write_concept_page(
    run: str | Path, concept: int, *, workers: int = 1, progress: Progress = silent
) -> Path:
    """Write `7_report/_concept-<N>.html` from the decisions of a run; return its path.

    Nothing else of the run changes. Raises UsageError for a concept that there is not, RunError where nothing is
    decided yet.
    """
    folder = open_run(run).folder
    if folder.marker(folder.decisions) is None:
        raise RunError(f"{folder.path}: 5_decisions is not there yet; first: curate run {folder.recipe}")
    table = concept_table(folder)
    rows = () if table is None else table.iter_rows(named=True)
    row = next((row for row in rows if row["concept"] == concept), None)
    if table is None or row is None:
        have = f"0 to {table.height - 1:,}" if table is not None and table.height else "no concepts"
        raise UsageError(f"--concept {concept}: {folder.path} has {have}")
    limits = {name: PER_LIST for name in _LISTS}
    limits |= {"typical": LIMITS["typical"], "duplicates": PAIRS}
    with LocalEngine(workers) as engine:
        context = with_parts(Context(load_recipe(folder.recipe), folder, engine, progress=progress))
        asked = report_request(context, (), (concept,), limits)
        found = scan_parts(folder, report=asked, engine=engine, progress=progress)
        shelf, by = galleries.shelve(context, found.picks, found.shown), (asked.hardness[0], asked.drawn)
        (gallery,) = galleries.galleries(found.picks, shelf, {concept: ()}, by)
        pictures = any(part.columns.image for part in context.parts)
    said = galleries.said_of_order(*by)
    text = page.render_concept(
        str(folder.path), gallery, row, shelf.samples, ordered_by=said, pictures=pictures
    )
    # The underscore says that it is none of the files the mark of the stage vouches for: it may come and go.
    path = folder.report / f"_concept-{concept}.html"
    with storage.atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path
