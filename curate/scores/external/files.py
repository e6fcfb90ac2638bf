"""Tables of scores as files: Parquet and CSV, by one name for their columns and one way to their rows."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from curate.errors import SourceError, UsageError

__all__ = ["ENDINGS", "batches", "count", "schema_of"]

TEXT = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
ENDINGS = (".parquet", ".pq", *TEXT)
BLOCK_BYTES = 4 << 20
#: What stands for no value; NaN is a value, though no finite one.
NULLS = ["", "null", "NULL", "NA", "N/A", "#N/A", "None"]
#: How a file of another kind becomes one that is read.
NEAREST = {
    ".jsonl": "polars.read_ndjson(file).write_parquet(...)",
    ".arrow": "polars.read_ipc(file).write_parquet(...)",
    ".feather": "polars.read_ipc(file).write_parquet(...)",
    ".npy": "polars.DataFrame({'uid': uids, 'score': array}).write_parquet(...), because an array says not whose they are",
    ".npz": "polars.DataFrame({'uid': uids, 'score': array}).write_parquet(...), because an array says not whose they are",
    ".xlsx": "polars.read_excel(file).write_parquet(...)",
}


def schema_of(file: Path, uid: str) -> pa.Schema:
    """Return the columns of a file. Raises UsageError for one that is no table.

    The uids of a CSV file are text as it stands there, so that 007 stays 007; its numbers are float64, and so is a
    column that begins with empty fields.
    """
    delimiter = _delimiter(file)
    try:
        if delimiter is None:
            return pq.read_schema(file)
        with _open(file, delimiter, pc.ConvertOptions(column_types={uid: pa.string()})) as found:
            fields = [
                one.with_type(pa.float64()) if pt.is_integer(one.type) or pt.is_null(one.type) else one
                for one in found.schema
            ]
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"score: {file} is no {_kind(file)}: {' '.join(str(error).split())}") from error
    return pa.schema(fields)


def count(file: Path) -> int:
    """Return the number of rows of a file; of CSV at most as many (its lines)."""
    if _delimiter(file) is None:
        return int(pq.read_metadata(file).num_rows)
    with pa.input_stream(str(file)) as lines:
        blocks: Iterator[bytes] = iter(lambda: lines.read(BLOCK_BYTES), b"")
        return sum(block.count(b"\n") for block in blocks) + 1


def batches(file: Path, uid: str, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Yield columns in order in tables of at most about `rows` rows (of CSV: some megabytes). SourceError where damaged."""
    names, delimiter = [uid, *columns], _delimiter(file)
    try:
        if delimiter is None:
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(rows, columns=names):
                    yield pa.Table.from_batches([batch])
            return
        kinds = {one.name: one.type for one in schema_of(file, uid) if one.name in names}
        how = pc.ConvertOptions(column_types=kinds, include_columns=names)
        with _open(file, delimiter, how) as found:
            for batch in found:
                yield pa.Table.from_batches([batch])
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error


def _open(file: Path, delimiter: str, how: pc.ConvertOptions) -> pc.CSVStreamingReader:
    with contextlib.closing(pa.input_stream(str(file))) as head:
        if not head.read(1):
            raise UsageError(f"score: {file} is empty: it needs a line with the names of columns")
    how.null_values = NULLS
    return pc.open_csv(
        str(file),
        read_options=pc.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=pc.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=how,
    )


def _delimiter(file: Path) -> str | None:
    """Return what separates the fields of a file of text; None for Parquet (or what claims to be nothing)."""
    return next((mark for end, mark in TEXT.items() if file.name.lower().endswith(end)), None)


def _kind(file: Path) -> str:
    """Return what a file should be, and for one of another kind what to do."""
    if _delimiter(file) is not None:
        return "CSV file"
    way = NEAREST.get(file.suffix.lower())
    return (
        "Parquet file"
        if way is None
        else f"Parquet or CSV file ({', '.join(ENDINGS)} are read); write it as {way}"
    )
