"""The base of scores that compare vectors with those of a few texts."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from curate.scores.base import ColumnName, Score, ScoreColumn, Sources

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output
    from curate.scores.texts.vectors import Groups

__all__ = ["ByTexts"]


class ByTexts(Score):
    """A score by texts, or by `.npy` files of their vectors; `score_rows` is given the vectors of each group.

    name : of its column, and of its folder.
    """

    name: ColumnName

    @property
    @abstractmethod
    def texts(self) -> "Groups":
        """The texts, by the names under which `score_rows` is given their vectors, (m, d) unit rows each."""

    @property
    def _setting(self) -> str:
        return f"score: {self.family} {self.name}"

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a file that is not there, and for texts where no model reads them."""
        from curate.scores.texts.vectors import check_texts

        check_texts(recipe, self.texts, self._setting)

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the hashes of the files; the texts are settings, the model is in the fingerprint of the vectors."""
        from curate.scores.texts.vectors import file_hashes

        return file_hashes(self.texts)

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return the vectors of each group of texts."""
        from curate.scores.texts.vectors import group_vectors

        every = (
            [] if context is None else [one.texts for one in context.recipe.score if isinstance(one, ByTexts)]
        )
        return group_vectors(context, self.texts, self._setting, every)
