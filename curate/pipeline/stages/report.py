"""Stage `report`: the page and the summary, from the tables of the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from curate.errors import UsageError
from curate.execution.context import log
from curate.execution.stage import Stage
from curate.filtering.column_tables import column_table, say_missing
from curate.io import storage
from curate.recipe import Recipe
from curate.scores.registry import families_of

__all__ = ["Report", "check_recipe"]


def check_recipe(recipe: Recipe) -> None:
    """Raise UsageError for a vocabulary that cannot name concepts."""
    if recipe.cluster.vocabulary is None:
        return
    from curate.analysis.retrieval.retrieve import read_names

    read_names(recipe.cluster.vocabulary)
    if recipe.embed.own_vectors or recipe.cluster.on != "image":
        why = (
            "there is no model for vectors of your own"
            if recipe.embed.own_vectors
            else f"concepts are of captions (cluster.on {recipe.cluster.on})"
        )
        raise UsageError(
            f"cluster.vocabulary is compared with concepts by the model of the run, and {why}; leave it out"
        )


class Report(Stage):
    """Writes `report.html` and `summary.json`."""

    name = "report"
    version = 2

    def inputs(self) -> list[object]:
        """Return the shards and the scores."""
        run = self.run_folder
        families = [run.fingerprint(run.scores(one.folder)) for one in families_of(self.recipe)]
        by = list(self.recipe.counted_by)  # reports made before there were such counts stay as they are
        return [run.fingerprint(run.filtered), families, *([by] if by else [])]

    def run(self) -> bool:
        """Do what there is to do; names that were lost are found again, whether or not a report is due."""
        worked = super().run()
        self._name_concepts()
        return worked

    def _name_concepts(self) -> None:
        """Name the concepts that have no names yet; those of `curate name` stay as long as the concepts do."""
        run, vocabulary = self.run_folder, self.recipe.cluster.vocabulary
        noted = storage.read_json(run.concept_names) or {}
        named = noted.get("concepts") == run.fingerprint(run.final_concepts)
        if not named or (vocabulary is not None and noted.get("by") != "vocabulary"):
            from curate.analysis.retrieval.concept_names import (
                name_concepts,  # a run with nothing to do needs none of it
            )

            name_concepts(run, vocabulary, self.recipe)

    def finish(self, results: Sequence[object]) -> dict[str, object]:
        """Write the page and the summary."""
        from curate.analysis.summary.report_data import report_data, summarize_for_report
        from curate.report import page

        folder = self.run_folder.report
        for old in folder.glob("_concept-*.html"):  # of decisions before
            storage.remove(old)
        for name in self.recipe.counted_by:
            column_table(self.context, name)
            for said in say_missing(self.context, name):
                log.info("report: %s", said)
        self._name_concepts()
        summary, asked = summarize_for_report(self.context)
        storage.write_json(folder / "summary.json", summary.totals())
        with storage.atomic(folder / "report.html") as partial:
            partial.write_text(page.render(report_data(self.context, summary, asked)), encoding="utf-8")
        return {}

    def log(self, stats: Mapping[str, Any]) -> None:
        """Say where the page is."""
        log.info("report: %s", self.run_folder.report / "report.html")
