"""Labels that people put right, as columns of what is written: beside the old one, or in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import UsageError
from curate.execution.context import Context
from curate.overrides.store import LABELLING, Overrides

__all__ = ["CHECK", "CORRECTED", "OF_PEOPLE", "Relabelled", "relabelled", "with_corrected"]

#: The label that people say is right, null where nobody gave one; and whether somebody called the label right or wrong.
CORRECTED, CHECK = OF_PEOPLE = ("label_corrected", "label_check")
_EXAMPLES = 5


@dataclass(frozen=True)
class Relabelled:
    """Labels that people put right. table : uid, `CORRECTED` and `CHECK`. in_place : whether they replace the old ones."""

    table: pl.DataFrame
    in_place: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to add to what is written."""
        return () if self.in_place else OF_PEOPLE

    def beside(self, rows: pl.DataFrame, columns: Sequence[str] = OF_PEOPLE) -> pl.DataFrame:
        """Return rows (with a uid) with both columns, or those of the two that are named."""
        table = self.table.select("uid", *columns)
        return rows.join(table, on="uid", how="left", maintain_order="left", validate="m:1")


def relabelled(context: Context) -> Relabelled | None:
    """Return the labels that people put right, as they are now; None if there are none, or they are to be left alone."""
    held = Overrides(context.run).current().filter(pl.col("what").is_in(LABELLING))
    if held.is_empty():
        return None
    wrong = pl.col("what") == "wrong_label"
    codes = _codes(context.run.class_names())
    new = pl.when(wrong).then(pl.col("to").replace(codes))
    check = pl.when(wrong).then(pl.lit("wrong")).otherwise(pl.lit("right"))
    table = held.select("uid", new.alias(CORRECTED), check.alias(CHECK))
    return Relabelled(table, context.recipe.write.relabel == "in_place")


def _codes(names: Mapping[str, str]) -> dict[str, str]:
    """Return the stored label of each class that has a name, for who gives names as new labels.

    >>> _codes({"0": "cat", "1": "dog"})
    {'cat': '0', 'dog': '1'}
    """
    return {name: code for code, name in names.items() if name not in names}


def with_corrected(
    column: pa.ChunkedArray, corrected: pa.ChunkedArray, where: str, classes: Sequence[str] = ()
) -> pa.ChunkedArray:
    """Return a column of labels with those that are given in the place of its own.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        The labels as they are stored.
    corrected : pyarrow.ChunkedArray
        As many texts, null where the label stays.
    where : str
        What is written, for the error.
    classes : sequence of str
        What the codes of the column are called, where the source says so; -1 is no class.

    Raises
    ------
    UsageError
        For a new label that is no value of the column's type, or no code of its classes.

    Examples
    --------
    >>> old, new = pa.chunked_array([[1, 2]]), pa.chunked_array([[None, "7"]], pa.string())
    >>> with_corrected(old, new, "train.parquet").to_pylist()
    [1, 7]
    """
    if corrected.null_count == len(corrected):
        return column
    try:
        new = corrected.cast(column.type)
    except pa.ArrowException:
        raise _no_label(column.type, corrected.drop_null()[0], where, classes) from None
    if classes and pa.types.is_integer(new.type):
        known = pc.and_(pc.greater_equal(new, -1), pc.less(new, len(classes)))
        if (strange := new.filter(pc.invert(known))).length():
            raise _no_label(column.type, strange[0], where, classes)
    chunks = pa.chunked_array([new.combine_chunks()]) if new.num_chunks != 1 else new
    return pa.chunked_array([pc.coalesce(chunks.chunk(0), column.combine_chunks())], column.type)


def _no_label(kind: pa.DataType, example: pa.Scalar, where: str, classes: Sequence[str]) -> UsageError:
    """Return the error about a new label that a column cannot hold."""
    such = f"a corrected label such as {str(example.as_py())!r} is none"
    if classes:
        some = ", ".join(classes[:_EXAMPLES]) + (", ..." if len(classes) > _EXAMPLES else "")
        return UsageError(
            f"{where}: its labels are the {len(classes):,} classes {some}, and {such}; give their names or codes, or "
            "write.relabel: beside"
        )
    return UsageError(
        f"{where}: its labels are {kind}, and {such}; give labels of that type, or write.relabel: beside"
    )
