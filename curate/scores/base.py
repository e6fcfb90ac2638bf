"""`Score`: settings, columns, help and computation of one family of scores, together in one class.

Where code goes. A recipe is checked, and `curate --help` shown, by these classes, so every module directly in
`curate/scores` is imported then and imports nothing heavy itself: no Polars, PyArrow or torch at its top. It imports
them inside the functions that need them. A family whose computation fills several modules is a package (`pair`, `heads`,
`pixels`, `external`) with the class in a light module of the same name (`pair/pair.py`), the computation over parts in
`parts.py`, and formulas beside it; the class imports those when it computes. `curate/scores/tables` holds what families
share to read and write tables, `curate/scores/regions` what they share of boxes in pictures. A class knows no other
family and not the registry: columns of other families, and reading of sources, are handed to it (`Sources`,
`Output.columns`).

A family that needs no more than the rows themselves gives `outputs`, `reads` and `score_rows`; the tables are then
written by `compute` of this class. This is also the way of a score in a package of its own (docs/plugins.md).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from curate.errors import CurateError, RunError, UsageError
from curate.scores.columns import Column, Direction
from curate.settings import Count, Settings
from curate.sources.settings import Source

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from curate.embedding.clip import Clip
    from curate.embedding.region_pool import RegionPool
    from curate.embedding.store import EmbeddingPart
    from curate.execution.context import Context
    from curate.recipe import Embed, Recipe
    from curate.scores.in_memory import Samples
    from curate.scores.tables.output import Output
    from curate.sources.base import Rows, Shard

__all__ = [
    "RESERVED",
    "AtLeastOne",
    "ColumnName",
    "Models",
    "Positive",
    "RowColumn",
    "RowColumns",
    "Score",
    "ScoreColumn",
    "Sources",
    "embedding_parts",
    "file_of",
    "require_memory",
]

#: Names that have a meaning of their own: folders below 3_scores, and the first column of their tables.
RESERVED = (
    "clip_score",
    "clip",
    "source",
    "pair",
    "heads",
    "pixels",
    "normsim",
    "noise",
    "color",
    "denoised",
    "filter",
    "against",
    "uid",
)

#: What `score_rows` calls the fields of samples in memory.
_FIELDS = {"caption": "captions", "label": "labels", "uid": "uids"}


def _column_name(value: str) -> str:
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]*", value) and value not in RESERVED:
        return value
    raise ValueError(f"must be letters, digits, _ . - and no family of curate, got {value!r}")


def file_of(*endings: str, hint: str = "") -> AfterValidator:
    """Return the check that a text names a file with one of some endings. hint : what to do with others."""

    def checked(value: str) -> str:
        if value.endswith(endings):
            return value
        raise ValueError(f"must be a {' or '.join(endings)} file{hint and f' ({hint})'}, got {value!r}")

    return AfterValidator(checked)


#: What the user calls a table of scores.
ColumnName = Annotated[str, AfterValidator(_column_name)]
AtLeastOne = Annotated[Count, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ScoreColumn(NamedTuple):
    """A column of the score tables of a recipe: its folder in 3_scores, its type, its direction (or None)."""

    folder: str
    kind: "pa.DataType"
    higher_is: Direction | None
    status: str


@dataclass(frozen=True)
class Models:
    """How scores reach vectors of further models; the pipeline hands it in.

    check : raises ModelError where a model cannot be had. space : what decides the numbers in its vectors. embedded : the
    run with the vectors of the model in place of its own.
    """

    check: "Callable[[Recipe, Embed, str], None]"
    space: "Callable[[Embed], object]"
    embedded: "Callable[[Context, Embed, str], Context]"


class RowColumn(Protocol):
    """A column of the rows of one part, as it stands in their shard."""

    def beside(self, rows: "pl.DataFrame") -> "Iterator[pl.DataFrame]":
        """Yield `rows` (with `row`, ascending) batch by batch with the column beside them."""


@dataclass(frozen=True)
class RowColumns:
    """How scores reach columns of the source; the pipeline hands it in.

    check : raises UsageError for a column that is not there, or no column of numbers. readers : the column of every part.
    """

    check: "Callable[[Recipe, str, str], None]"
    readers: "Callable[[Context, str], Mapping[str, RowColumn]]"


@dataclass(frozen=True)
class Sources:
    """How scores reach samples outside the tables of a run; the pipeline hands it in.

    check, fingerprint, vectors : of a reference set (a source, or `.npy` files): raise UsageError where it cannot be
    used; return what changes when it does; return a `.npy` file of its unit vectors. find_shards : the shards of a
    source. read_batches : rows of a part with their encoded images. row_images : (part, source, rows, setting), encoded
    images of some rows. open_regions : (context, what is made of boxes), a context with the model and its decoders.
    models : vectors of further models. columns : columns of the source.
    """

    check: Callable[..., None]
    fingerprint: Callable[..., str]
    vectors: Callable[..., Path]
    find_shards: Callable[[Source], "list[Shard]"]
    read_batches: Callable[..., "Iterator[tuple[Rows, Any]]"]
    row_images: Callable[..., Any]
    open_regions: "Callable[[Context, str], AbstractContextManager[tuple[Clip, RegionPool]]]"
    models: Models
    columns: RowColumns


class Score(Settings):
    """A family of scores, as it stands in the list `score` of a recipe; a subclass for each.

    family : its name in a recipe (a `Literal` in subclasses). Its fields are its settings.
    """

    #: Its score columns (and others that its table has, without a direction), in the order of the table.
    outputs: ClassVar[Mapping[str, Column]] = {}
    #: Columns that it has only under a setting, and that setting as it stands in a recipe.
    optional: ClassVar[Mapping[str, str]] = {}
    #: What `score_rows` is given: `image`, `text` (unit vectors), `caption`, `label`, `uid`.
    reads: ClassVar[tuple[str, ...]] = ("image",)
    #: Goes up when numbers change that were computed before.
    version: ClassVar[int] = 1
    #: What people need to choose it: what it measures, the paper, the cost, what must be there, when not to use it.
    measures: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    cost: ClassVar[str] = ""
    requires: ClassVar[str] = ""
    avoid: ClassVar[str] = ""
    #: Its place in lists; equal ones go by name.
    place: ClassVar[int] = 100

    family: str

    @property
    def needed(self) -> bool:
        """Whether it is said where no row has what it needs: `required`, for families with that setting."""
        return bool(getattr(self, "required", True))

    @property
    def folder(self) -> str:
        """The name of its folder below 3_scores: the setting `name`, where it has one, or that of the family."""
        return str(getattr(self, "name", self.family))

    @property
    def needs(self) -> tuple[str, ...]:
        """Score columns of other families that it is computed from."""
        return ()

    @property
    def row_needs(self) -> tuple[str, ...]:
        """What a row must have to be scored: `text` (a caption with a vector), `label`."""
        return ("text",) if "text" in self.reads else ()

    @property
    def status_column(self) -> str:
        """The column that says why a sample has no score."""
        return f"{self.folder}_status"

    @property
    def gives(self) -> tuple[str, ...]:
        """The names of the columns that others may need."""
        return (*self.columns_made(), self.status_column)

    def columns_made(self) -> Mapping[str, Column]:
        """Return the columns of its table under these settings, without uid and status."""
        return self.outputs

    def directions(self) -> dict[str, Direction]:
        """Return what a higher value of each score column means."""
        made = self.columns_made().items()
        return {name: column.higher_is for name, column in made if column.higher_is is not None}

    def table(self) -> "pa.Schema":
        """Return the schema of its table: uid, its columns, its status."""
        import pyarrow as pa

        made = [(name, pa.type_for_alias(column.kind)) for name, column in self.columns_made().items()]
        return pa.schema([("uid", pa.string()), *made, (self.status_column, pa.string())])

    def described(self) -> "dict[str, ScoreColumn]":
        """Return the columns of its table, its status too: where they are, of which type, and what higher values mean."""
        table, means, folder = self.table(), self.directions(), self.folder
        columns = (field for field in table if field.name != "uid")
        return {
            one.name: ScoreColumn(folder, one.type, means.get(one.name), table.names[-1]) for one in columns
        }

    def fingerprinted(self) -> object:
        """Return the settings that decide the numbers."""
        return self.model_dump(mode="json", exclude={"device", "epsilon"})

    def check(self, recipe: "Recipe", sources: Sources) -> None:
        """Raise UsageError, before any work, for settings that cannot be served."""

    def check_columns(self, found: Callable[[str, str], ScoreColumn]) -> None:
        """Raise UsageError for columns of other families that are not fit.

        found : column and name of the setting -> the column; it raises UsageError where there is no such score.
        """

    def inputs(
        self, context: "Context", columns: Mapping[str, ScoreColumn], sources: Sources
    ) -> list[object]:
        """Return what the numbers depend on besides settings and embeddings, to be fingerprinted.

        columns : those in `needs`.
        """
        return []

    def score_rows(self, **rows: Any) -> Mapping[str, npt.NDArray[Any]]:  # noqa: ANN401  (what `reads` names)
        """Return the columns of some rows, (n,) each, by name; NaN (in columns of text None) where a row has no score.

        rows : by the names in `reads`: `image` and `text` are (n, d) float32 unit rows, the others lists of n strings
        (or None); captions are whole. And what `given` returned. Rows without a caption are not given where `text` is
        read. Each row by itself: rows come in blocks. The status of rows without a number in the first column is
        `nonfinite`, or what stands under the name of the column of statuses.
        """
        raise CurateError(f"{type(self).__name__} must define score_rows or compute")

    def given(self, context: "Context | None", output: "Output | None" = None) -> Mapping[str, Any]:
        """Return what `score_rows` is given besides the rows, the same for all of them: weights, vectors of texts.

        context, output : of the run; None for samples in memory.
        """
        return {}

    def in_memory(self, samples: "Samples") -> tuple[Mapping[str, npt.NDArray[Any]], npt.NDArray[np.object_]]:
        """Return the columns of samples in memory, (n,) each, and the name of each row's status."""
        if type(self).score_rows is Score.score_rows:
            raise UsageError(f"score: {self.family} is computed in a run only")
        given = {name: samples.require(self.family, _FIELDS.get(name, name)) for name in self.reads}
        wanted = samples.has_text if "text" in self.reads else np.ones(len(samples), np.bool_)
        some = {
            name: values[wanted]
            if isinstance(values, np.ndarray)
            else [one for one, chosen in zip(values, wanted, strict=True) if chosen]
            for name, values in given.items()
        }
        columns = {name: one.nothing(len(samples)) for name, one in self.columns_made().items()}
        made = self.score_rows(**some, **self.given(None)) if wanted.any() else {}
        for name in columns.keys() & made.keys():
            columns[name][wanted] = made[name]
        known = np.isfinite(next(iter(columns.values())))
        why = np.where(wanted, "nonfinite", "no_text").astype(object)
        why[wanted] = made.get(self.status_column, "nonfinite")
        return columns, np.where(known, "ok", why).astype(object)

    def compute(self, context: "Context", output: "Output") -> dict[str, Any]:
        """Write the tables of all parts; return what is to be noted: `scored` (rows), perhaps `warnings`."""
        from curate.scores.tables import by_rows

        return by_rows.compute(self, context, output)


def embedding_parts(context: "Context") -> "list[EmbeddingPart]":
    """Return the embeddings of all parts, mapped from the disk."""
    from curate.embedding.store import EmbeddingPart

    return [EmbeddingPart(context.run.part(context.run.embeddings, part.name)) for part in context.parts]


def require_memory(context: "Context", what: str, rows: int, bytes_per_row: int) -> None:
    """Raise RunError unless columns over all samples fit into `memory`, saying how many would."""
    room = context.recipe.memory * 3 // 4
    if rows * bytes_per_row > room:
        raise RunError(
            f"{what} needs {rows * bytes_per_row / 1e9:.1f} GB for {rows:,} samples; memory "
            f"{context.recipe.memory / 1e9:g}GB fits {room // bytes_per_row:,}: raise memory"
        )
