"""How many names of a list a caption holds, by its words: the text-based filter of DataComp (Gadre et al. 2023).

DataComp's code splits an English caption at white space, asks WordNet for the first meaning of each word, and keeps the pair if one is a
class of ImageNet-21k. WordNet is no part of this project: names are looked for as words, of several words too, case
and plurals aside. So "mouse" is found whatever it means, and "sports car" where the code saw two words.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from curate.scores.base import ColumnName, Score, ScoreColumn, Sources, file_of
from curate.scores.columns import Column

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe
    from curate.scores.tables.output import Output

__all__ = ["Mentions", "plural_of", "synonyms_of"]

_SETTING = "score: mentions.names"
_VOWELS = "aeiou"


class Mentions(Score):
    """How many of the names in a file a caption holds as words.

    name : of the column. names : a file, one thing a line: its names with commas between (``sports car, sport car``), or a
    JSON list of such lines; `_` counts as a space. plurals : whether the plural of a name counts too.
    """

    measures: ClassVar[str] = "how many names of a list a caption holds as words"
    paper: ClassVar[str] = (
        "after the text-based filter of Gadre et al. 2023 (DataComp), arXiv:2304.14108, without WordNet"
    )
    cost: ClassVar[str] = "one pass over the captions, 0.1 to 0.3 ms a caption"
    requires: ClassVar[str] = "captions, and a file of names"
    avoid: ClassVar[str] = "for names with other meanings: a caption of any of them counts"
    place: ClassVar[int] = 15
    reads: ClassVar[tuple[str, ...]] = ("caption",)

    family: Literal["mentions"] = "mentions"
    name: ColumnName = "mentions"
    names: Annotated[str, file_of(".txt", ".json")]
    plurals: bool = True

    @property
    def row_needs(self) -> tuple[str, ...]:
        """Captions."""
        return ("caption",)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the one column, of the name that the user gave."""
        return {self.name: Column("better")}

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers: what the file holds, not where it lies."""
        return self.model_dump(mode="json", exclude={"names"})

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError for a file that is not there or holds no names."""
        self._things()

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return the hash of the file."""
        from curate.io import storage

        return [storage.hash_file(Path(self.names))]

    def _things(self) -> list[list[str]]:
        """Return the names of each thing."""
        from curate.scores.texts.matching import read_lines

        return [names for line in read_lines(Path(self.names), _SETTING) if (names := synonyms_of(line))]

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return what finds names, and which thing each is a name of."""
        from curate.scores.texts.matching import Matcher

        found = [(name, place) for place, names in enumerate(self._things()) for name in names]
        if self.plurals:
            found += [(plural_of(name), place) for name, place in found]
        # A name of two things counts for the first.
        return {
            "matcher": Matcher([name for name, _ in found], ignore_case=True),
            "thing": [place for _, place in found],
        }

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401
        """Return the number of things that each caption names."""
        thing, found = rows["thing"], rows["matcher"].found
        numbers = [
            len({thing[place] for place in found(one)}) if one and one.strip() else np.nan
            for one in rows["caption"]
        ]
        return {
            self.name: np.array(numbers, np.float64),
            self.status_column: np.full(len(numbers), "no_text", object),
        }


def synonyms_of(line: str) -> list[str]:
    """Return the names in a line.

    >>> synonyms_of("sports_car, sport car,"), synonyms_of(" ")
    (['sports car', 'sport car'], [])
    """
    names = (" ".join(name.replace("_", " ").split()) for name in line.split(","))
    return [name for name in names if name]


def plural_of(name: str) -> str:
    """Return the plural of a name by the rules of spelling; of its last word, where it has several.

    >>> [plural_of(name) for name in ("cat", "sports car", "bus", "church", "cherry", "toy", "fireman")]
    ['cats', 'sports cars', 'buses', 'churches', 'cherries', 'toys', 'firemen']
    """
    word = name.lower()
    if word.endswith("man"):
        return f"{name[:-2]}en"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return f"{name}es"
    if word.endswith("y") and word[-2:-1] not in ("", " ", *_VOWELS):
        return f"{name[:-1]}ies"
    return f"{name}s"
