"""Stage `report`: the page and the summary, from the tables of the run."""

from curate.analysis.summary.report_data import report_data, summarize_for_report
from curate.execution.context import Context, log
from curate.io import storage
from curate.report import page
from curate.scores.registry import families_of

__all__ = ["VERSION", "run"]

VERSION = 2


def run(context: Context) -> bool:
    """Write `report.html` and `summary.json`; return whether anything was to do."""
    folder = context.run.report
    families = [
        context.run.fingerprint(context.run.scores(one.folder)) for one in families_of(context.recipe)
    ]
    fingerprint = storage.fingerprint(
        "report", VERSION, context.run.fingerprint(context.run.filtered), families
    )
    if context.run.is_done(folder, fingerprint):
        return False
    context.run.unmark(folder)
    for old in folder.glob("_concept-*.html"):  # of decisions before
        storage.remove(old)
    summary, asked = summarize_for_report(context)
    storage.write_json(folder / "summary.json", summary.counts)
    with storage.atomic(folder / "report.html") as partial:
        partial.write_text(page.render(report_data(context, summary, asked)), encoding="utf-8")
    context.run.mark(folder, fingerprint, {})
    log.info("report: %s", folder / "report.html")
    return True
