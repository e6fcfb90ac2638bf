"""What every selection method is: its settings, what it reads, and how it finds which rows are kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, model_validator

from curate.clustering.complexity import Kind, complexity
from curate.clustering.geometry import Geometry
from curate.ordering.cutoff import Pairs
from curate.ordering.keys import priority_key, score_of
from curate.selection.rules import Counts, Floats, Mask, Rule
from curate.selection.spread import Solved, Spread, temperature_for
from curate.settings import Count, Folder, KeepShare, Settings, Share, none_word, whole

if TYPE_CHECKING:
    import polars as pl

    from curate.selection.coverage import Covered, Objects
    from curate.selection.rows.counterfactual import Standing
    from curate.selection.rows.finished import Finished, Row

__all__ = [
    "Arranger",
    "ByScore",
    "DensitySettings",
    "RowSource",
    "Selector",
    "Source",
    "comes_before",
    "free_rows",
    "free_sizes",
    "pairs",
]

Arrays = dict[str, npt.NDArray[Any]]
Keys = npt.NDArray[np.uint64]


class Arranger(Protocol):
    """Puts the rows of a concept in an order by their vectors; workers are given it."""

    def identity(self) -> list[object]:
        """Return what the order depends on besides the rows."""

    def taken(
        self, rows: "pl.DataFrame", vectors: npt.NDArray[np.float32], first: Mask
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.uint64] | None]:
        """Return when each row of a concept is taken, (n,) from 1, 0 for pinned ones and those that stay behind.

        rows : concept, pinned, tie, uid and the extras of the method. vectors : (n, d) unit rows. first : (n,) rows that go
        ahead. Returns also the keys by which rows of all concepts are compared from now on, where these change.
        """


class RowSource(Protocol):
    """The rows among which a method chooses: read block by block, as often as it likes, always the same."""

    @property
    def concepts(self) -> "pl.DataFrame":
        """One row per concept: n_eligible, n_pinned, d_intra, smallest_uid."""

    @property
    def parents(self) -> tuple[npt.NDArray[Any], ...]:
        """Of each level of concepts above the finest, the concept there that each is in, (k,); none without levels."""

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels in order, where they have quotas; a row's `group` is a place in it."""

    def blocks(self, *columns: str) -> Iterator[Arrays]:
        """Yield columns of all rows, block by block; null scores are NaN."""

    def geometry(self, settings: "DensitySettings") -> Geometry:
        """Return how the concepts lie, with the mean taken out and with their dimension where settings ask for it."""

    def rearranged(self, arranger: "Arranger") -> Self:
        """Return the rows ranked anew: in each concept by the order that comparing its vectors gives."""

    @property
    def has_shipped(self) -> bool:
        """Whether keys say which rows go ahead because they were kept before: their first bit is 0."""

    def objects(self) -> "Objects":
        """Return the objects in the rows, which are counted in the order of `blocks`."""

    def placed(self, key: Keys, covered: "Covered") -> Self:
        """Return the rows ranked anew by other keys (n,), in the order of `blocks`; covered : what they come from."""


Source = TypeVar("Source", bound=RowSource)


@dataclass(frozen=True)
class DensitySettings:
    """How density pruning divides rows over concepts; other methods show what it would do, with these values."""

    temperature: float | Solved = 0.1
    neighbours: int = 20
    min_per_concept: int = 1
    complexity: Kind = "inter*intra"
    subtract_mean: bool = False

    @property
    def compares_vectors(self) -> bool:
        """Whether the vectors of members are read again."""
        return self.subtract_mean or self.complexity == "dimension"

    def complexities(self, found: Geometry, sizes: Counts) -> Floats:
        """Return the complexity of each concept, (k,). sizes : (k,) rows that compete."""
        return complexity(
            found.d_inter, found.d_intra, self.complexity, sizes=sizes, dimension=found.dimension
        )

    def temperature_of(self, value: Floats, sizes: Counts) -> float:
        """Return the temperature: as it is set, or what gives the effective share asked for.

        value, sizes : (k,), the complexities, and the rows that compete.
        """
        if isinstance(self.temperature, Solved):
            return temperature_for(value[sizes > 0], self.temperature.effective_share)
        return self.temperature


class Selector(Settings):
    """Which samples to keep, and how many: a share (`keep`) or a number (`count`).

    shipped : rows that were kept before go ahead of all others but pinned ones: true for the decisions that
    these replace, a path for those of another run.
    drop_noise : the noisiest rows go before anything is chosen: this share of the eligible ones, or as many as the
    heads estimate to be mislabelled (auto; none where that is few; less those that people want or judged right). noise_by : the score that says which.
    floor : rows that every group (`floor_per`: label, concept, source, split or a column of the source) keeps for sure: a
    number, or half of an equal share. Rows without a label, split or value are in no group.

    A method is a subclass in a file of its own: its settings, its rule, and what people need to know to choose it.
    """

    #: What it keeps, in words; names of its settings in backquotes.
    keeps: ClassVar[str]
    #: What must be there: a score, labels, vectors.
    needs: ClassVar[str] = "concepts"
    #: What comes first.
    direction: ClassVar[str] = "as `prefer` says"
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = "one sort per concept"
    #: When to take another method.
    avoid: ClassVar[str]
    #: Whether rows are ordered by one score over all concepts, `by`.
    goes_by_score: ClassVar[bool] = False
    #: The setting that names the second score, `cut_by`.
    cut_setting: ClassVar[str] = "cutoff"
    #: The score that it goes by where `by` names none; empty where one must be named.
    own_score: ClassVar[str] = ""
    #: Whether it keeps one stretch of a score, so that a plot can show where it is cut.
    keeps_stretch: ClassVar[bool] = False
    #: Whether shipped rows can go ahead of others.
    ranks_ahead: ClassVar[bool] = True
    #: Whether the probability of a row to be kept is known.
    known_odds: ClassVar[bool] = True
    #: Whether the budgets of concepts follow from their complexity.
    by_complexity: ClassVar[bool] = False
    #: Whether it evens concepts out, so that it is said how evenly the kept rows are spread.
    balances: ClassVar[bool] = False
    #: Whether vectors are compared.
    compares_vectors: ClassVar[bool] = False

    #: What orders the rows of a group that has a floor: the order of the method, or a draw where it has no first row.
    floor_order: ClassVar[str] = "key"
    #: Whether every row that reaches it is kept, so that no share and no number is asked for.
    keeps_all: ClassVar[bool] = False

    #: Whether noise and floors are left out where labels or scores for them are missing, instead of refused.
    takes_what_is_there: ClassVar[bool] = False

    #: Score columns whose tables it reads besides, whatever becomes of rows without a value.
    reads_tables: ClassVar[tuple[str, ...]] = ()

    #: Settings that are newer than runs made before: they count in fingerprints where they are set.
    later: ClassVar[tuple[str, ...]] = ()

    #: Where it stands in lists of methods; those of other packages come last.
    place: ClassVar[int] = 100

    method: str
    keep: KeepShare | None = None
    count: Annotated[Annotated[int, Field(ge=0, strict=True)] | None, BeforeValidator(whole)] = None
    of: Literal["usable", "input", "eligible"] = "usable"
    at_most: bool = False
    shipped: bool | Folder = False
    drop_noise: Annotated[Literal["auto"] | Share | None, BeforeValidator(none_word)] = None
    noise_by: str | None = None
    floor: Annotated[Literal["half"] | Annotated[Count, Field(ge=1)] | None, BeforeValidator(none_word)] = (
        None
    )
    floor_per: Annotated[str, Field(min_length=1)] = "label"

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if self.keep is not None and self.count is not None:
            raise ValueError("takes keep (a share) or count (a number of samples), got both")
        if self.keep is None and self.count is None:
            raise ValueError(
                "needs keep (a share) or count (a number of samples); method all keeps all that pass conditions and dedup"
            )
        return self

    # --- what comes before the method ---------------------------------------------------------------------------

    @property
    def composed(self) -> bool:
        """Whether rows are taken out or kept before the method chooses."""
        return self.drop_noise is not None or self.floor is not None

    @property
    def floor_column(self) -> str | None:
        """The column whose values are the groups that have a floor; None where none is, or concepts are."""
        return self.floor_per if self.floor is not None and self.floor_per != "concept" else None

    # --- what it reads ---------------------------------------------------------------------------------------

    @property
    def preference(self) -> str:
        """What rows of a concept are ordered by: hardest, easiest, random or score:<column>."""
        return str(getattr(self, "prefer", "hardest"))

    @property
    def score_column(self) -> str | None:
        """The score over all rows that the method goes by, if it goes by one."""
        return None

    @property
    def null_policy(self) -> str:
        """What becomes of rows without that score."""
        return "drop"

    @property
    def cut_by(self) -> str | None:
        """The score that takes the noisiest rows out first, if one does."""
        return None

    @property
    def columns(self) -> tuple[str, ...]:
        """The score columns that the method reads."""
        return tuple(score_of(self.preference))

    @property
    def required(self) -> tuple[str, ...]:
        """The score columns without which a row is dropped before the selection."""
        return self.columns

    @property
    def extras(self) -> tuple[str, ...]:
        """What rows carry besides their key: score, cutoff, draw, group; noise, vouched, floor_group."""
        return (*(("group",) if self.group_column is not None else ()), *self.first_extras)

    @property
    def first_extras(self) -> tuple[str, ...]:
        """What rows carry for what comes before the method."""
        noise, floor = self.drop_noise is not None, self.floor is not None
        return (*(("noise", "vouched") if noise else ()), *(("floor_group",) if floor else ()))

    @property
    def group_column(self) -> str | None:
        """The column whose values have quotas: label, source, split or one of the source; None where none has."""
        return None

    @property
    def grouped_by(self) -> dict[str, str]:
        """The columns that rows are grouped by, and the setting that names each."""
        named = {self.floor_column: "select.floor_per", self.group_column: "select.per"}
        return {column: setting for column, setting in named.items() if column is not None}

    @property
    def drawn(self) -> bool:
        """Whether chance decides which rows are kept."""
        return self.preference == "random"

    @property
    def density(self) -> DensitySettings:
        """How density pruning would divide the rows."""
        return DensitySettings()

    # --- what it keeps ---------------------------------------------------------------------------------------

    def room(self, n_scored: int) -> int:
        """Return how many of `n_scored` rows are left after those that the method skips."""
        return n_scored

    def arranged(self, rows: Source, n_keep: int) -> Source:
        """Return the rows in the order the method wants, for `n_keep` to keep."""
        return rows

    def fit(self, rows: RowSource, n_keep: int, total: int) -> Rule:
        """Return the rule that keeps `n_keep` of the `total` rows that compete: not pinned, and with a score.

        Every method defines it; `registry` refuses one of another package that does not.
        """
        raise NotImplementedError

    def concept_table(self, rows: RowSource, rule: Rule) -> "pl.DataFrame":
        """Return the concepts with `d_inter` and `complexity`, which say the same whatever the method."""
        import polars as pl

        found = rows.geometry(self.density)
        value = self.density.complexities(found, free_sizes(rows.concepts))
        return rows.concepts.with_columns(
            pl.Series("d_intra", found.d_intra),
            pl.Series("d_inter", found.d_inter),
            pl.Series("complexity", value),
        )

    def divides(self, rule: Rule, concepts: "pl.DataFrame") -> Spread | None:
        """Return how unevenly complexity divides the rows over concepts; None where it does not divide them."""
        return None

    def noted(self, rows: RowSource, rule: Rule, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is to be known of what was found: facts by name; `warnings` and `notes` are sentences.

        facts : what the score that the method goes by noted.
        """
        return {}

    def concept_budgets(
        self, sizes: Counts, n_keep: int, parents: Sequence[npt.NDArray[Any]] = ()
    ) -> Counts | None:
        """Return how many rows each concept keeps, where that follows from their sizes (k,), and their parents, alone."""
        return None

    @property
    def by_sizes(self) -> bool:
        """Whether the budgets of concepts follow from their sizes alone."""
        return False

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return at which numbers of rows a row that is not pinned is kept; or why none keeps it.

        Every method defines it, as it does `fit`.
        """
        raise NotImplementedError


class ByScore(Selector):
    """A method that goes by one score over all rows, `by`; rows without it are kept as `on_null` says."""

    needs = "a score (`by`)"
    direction = "the hardest first, whichever way the score points"
    cost = "two or three passes over the scores"
    goes_by_score = True
    #: Whether rank 1 is the easiest row.
    from_easiest: ClassVar[bool] = False
    #: Whether values are taken as they are, whatever a higher one means.
    as_it_is: ClassVar[bool] = False
    #: The column that orders rows with the same key.
    ties: ClassVar[str] = "tie"
    floor_order = "draw"

    by: str | None = None
    on_null: Literal["proportional", "keep", "drop", "error"] = "proportional"

    @model_validator(mode="after")
    def _has_score(self) -> Self:
        if not self.score_column:
            raise ValueError(f"needs by (a score column) for method {self.method}")
        return self

    @property
    def score_column(self) -> str:
        """The score that the method goes by."""
        return self.by or self.own_score

    @property
    def null_policy(self) -> str:
        """What becomes of rows without the score."""
        return self.on_null

    @property
    def columns(self) -> tuple[str, ...]:
        """The score columns that the method reads."""
        return tuple(dict.fromkeys([self.score_column, *([self.cut_by] if self.cut_by else [])]))

    @property
    def required(self) -> tuple[str, ...]:
        """The score columns without which a row is dropped before the selection."""
        return self.columns if self.on_null == "drop" else ()

    @property
    def extras(self) -> tuple[str, ...]:
        """The score, the draw for rows without one, and what the noisiest are cut off by."""
        own = ("score", "cutoff", "draw") if self.cut_by else ("score", "draw")
        return (*own, *self.first_extras)

    @property
    def drawn(self) -> bool:
        """Ranks decide, not chance."""
        return False

    @property
    def counts_from_easiest(self) -> bool:
        """Whether the place of a row is counted from the easiest."""
        return self.from_easiest

    def key(self, score: Floats, draw: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """Return the keys of rows, (n,); the smallest is first. score : larger is harder. draw : uniform hashes."""
        return priority_key(score, "easiest" if self.counts_from_easiest else "hardest")

    def most(self, rows: RowSource, n_scored: int) -> int:
        """Return how many of `n_scored` rows can be kept at most."""
        return self.room(n_scored)

    def places(self, n_keep: int, total: int) -> tuple[int, int]:
        """Return how many of `total` rows are skipped, and the last place that is kept."""
        return 0, n_keep

    def standing(self, run: "Finished", row: "Row") -> "Standing | str":
        """Return the row's place among all rows with a score, or among those without one."""
        return run.by_score(self, row)

    def scored_standing(self, run: "Finished", own: Mapping[str, Any]) -> "Standing | str":
        """Return where a row with a score stands."""
        return run.nested(self, own)


def free_sizes(concepts: "pl.DataFrame") -> Counts:
    """Return how many rows of each concept are not pinned, (k,)."""
    sizes: Counts = concepts["n_eligible"].to_numpy() - concepts["n_pinned"].to_numpy()
    return sizes


def free_rows(rows: RowSource, *columns: str, scored: bool = True) -> Iterator[Arrays]:
    """Yield columns of the rows that are not pinned and have (scored) or lack a score."""
    for block in rows.blocks("pinned", "score", *columns):
        chosen = ~block["pinned"] & (~np.isnan(block["score"]) == scored)
        yield {name: block[name][chosen] for name in columns}


def pairs(
    rows: RowSource, key: str = "key", ties: str = "tie", *, scored: bool = True
) -> Callable[[], Iterator[Pairs]]:
    """Return how to read (key, tie) of the rows that compete, as `nth_smallest` wants it."""
    return lambda: ((block[key], block[ties]) for block in free_rows(rows, key, ties, scored=scored))


def comes_before(rows: Arrays, own: Mapping[str, Any], key: str, ties: str) -> Mask:
    """Return which of n rows come before one, (n,), by a key and a tie number."""
    before: Mask = (rows[key] < own[key]) | ((rows[key] == own[key]) & (rows[ties] < own[ties]))
    return before
