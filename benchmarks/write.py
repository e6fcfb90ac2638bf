"""Kept rows written as Parquet: `curate` against PyArrow and Polars that filter and write the same rows.

All read the same shards, page checksums checked, keep the same half of the rows, write zstd (level 1) with page
checksums where they can, flush every file to the disk before it gets its name, and count the rows. PyArrow and
Polars are handed the uids to keep; ours is what `curate export RUN --format parquet` calls, in one process, from a finished run:
it also plans the files, joins the schemas, holds every source shard against what was hashed, and writes the card.

Two kinds of rows: `images` (JPEG-sized bytes that do not compress, a caption) and `vectors` (512 x float16, a caption).
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from timing import Contender, arguments, call, compare, write

DIM, IMAGE_BYTES, SHARDS, ROW_GROUP = 512, 20_000, 4, 1_000
#: Rows of each kind.
ROWS = {
    "toy": {"images": 200},
    "short": {"images": 16_000, "vectors": 100_000},
    "long": {"images": 64_000, "vectors": 400_000},
}
WORDS = [
    "a",
    "photo",
    "of",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "old",
    "dog",
    "cat",
    "tree",
    "house",
    "street",
    "lamp",
    "boat",
    "in",
    "on",
    "under",
    "with",
    "and",
]


def make(folder: Path, kind: str, rows: int) -> None:
    """Write shards of one kind of rows, and a run that keeps half of them."""
    rng = np.random.default_rng(0)
    (folder / "in").mkdir()
    for shard in range(SHARDS):
        n = rows // SHARDS
        ids = [f"{shard}-{row:07d}" for row in range(n)]
        words = rng.choice(WORDS, (n, 8))
        table = pa.table({"id": ids, "caption": [" ".join(line) for line in words.tolist()]})
        vectors = rng.standard_normal((n, DIM if kind == "vectors" else 8)).astype(np.float16)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        table = table.append_column("vector", flat)
        if kind == "images":
            sizes = rng.integers(IMAGE_BYTES // 2, IMAGE_BYTES * 3 // 2, n)
            table = table.append_column("image", pa.array([rng.bytes(size) for size in sizes]))
        path = folder / "in" / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
        pq.write_table(
            table,
            path,
            row_group_size=ROW_GROUP,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=["caption"],
        )
    prepare(folder)


def prepare(folder: Path) -> None:
    """Make the run that all contenders take their decisions from, and the list of uids it keeps."""
    import curate

    recipe = {
        "run": str(folder / "run"),
        "source": {"path": str(folder / "in" / "*.parquet"), "uid": "id", "caption": "caption"},
        "embed": {"column": "vector"},
        "cluster": {"concepts": 8},
        "select": {"method": "random", "keep": 0.5},
        "workers": 1,
    }
    run = curate.run(recipe, until="select", progress=False)
    run.kept().select("uid").write_parquet(folder / "kept.parquet")


def with_pyarrow(folder: str) -> Iterator[None]:
    """Filter and write shard by shard, a row group at a time."""
    source, out = Path(folder, "in"), Path(folder, "pyarrow")
    out.mkdir()
    yield
    kept = pq.read_table(Path(folder, "kept.parquet"))["uid"].combine_chunks()
    written = 0
    for path in sorted(source.glob("*.parquet")):
        partial = out / f".{path.name}.partial"
        with (
            pq.ParquetFile(path, page_checksum_verification=True) as file,
            pq.ParquetWriter(
                partial,
                file.schema_arrow,
                compression="zstd",
                write_page_checksum=True,
                use_dictionary=["id", "caption"],
                write_statistics=["id", "caption"],
            ) as writer,
        ):
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                table = table.filter(pc.is_in(table["id"], value_set=kept.cast(table["id"].type)))
                writer.write_table(table)
                written += table.num_rows
        flush(partial)
        partial.rename(out / path.name)
    flush(out)
    return came_out(out, written, len(kept))


def with_polars(folder: str) -> Iterator[None]:
    """Filter and write shard by shard, streaming."""
    source, out = Path(folder, "in"), Path(folder, "polars")
    out.mkdir()
    yield
    kept = pl.read_parquet(Path(folder, "kept.parquet"))["uid"]
    for path in sorted(source.glob("*.parquet")):
        partial = out / f".{path.name}.partial"
        rows = pl.scan_parquet(path).filter(pl.col("id").is_in(kept.implode()))
        rows.sink_parquet(partial, compression="zstd", compression_level=1, sync_on_close="all")
        partial.rename(out / path.name)
    flush(out)
    written = pl.scan_parquet(out / "*.parquet").select(pl.len()).collect().item()
    return came_out(out, written, len(kept))


def with_curate(folder: str) -> Iterator[None]:
    """Export what the run kept, in a process like that of the command."""
    from curate.io.without_pandas import keep_pandas_out
    from curate.pipeline.export import export_recipe, export_run

    keep_pandas_out()
    recipe = export_recipe(Path(folder, "run"))
    yield
    out = Path(folder, "curate")
    made = export_run(recipe, "parquet", out)
    return came_out(out, made.rows, len(pq.read_table(Path(folder, "kept.parquet"))))


def came_out(out: Path, written: int, wanted: int) -> dict[str, Any]:
    """Return what was written; raise where rows are missing."""
    if written != wanted:
        raise SystemExit(f"{out.name}: {written:,} rows written, {wanted:,} are kept")
    size = sum(path.stat().st_size for path in out.glob("*.parquet"))
    return {"rows": written, "MB": round(size / 1e6, 1)}


def flush(path: Path) -> None:
    """Return once a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_equal(folder: Path) -> None:
    """Raise unless all wrote the same rows with the same values."""
    ways = [folder / name for name in ("curate", "pyarrow", "polars")]
    tables = [pl.read_parquet(way / "*.parquet").sort("id") for way in ways if way.exists()]
    if not all(one.select(tables[0].columns).equals(tables[0]) for one in tables):
        raise SystemExit("the contenders wrote different rows")


def main(given: list[str] | None = None) -> None:
    """Measure both kinds of rows."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, help="rows of each kind")
    options = parser.parse_args(given)
    found = []
    for kind, usual in ROWS[options.size].items():
        rows = options.rows or usual
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make(folder, kind, rows)
            ways = {
                name: Contender(
                    shown, call(__file__, f"with_{name}", folder=folder), fresh=[folder / name]
                )
                for name, shown in (("curate", "curate export"), ("pyarrow", "PyArrow"), ("polars", "Polars"))
            }  # fmt: skip
            found.append(
                compare(
                    f"{rows:,} rows of {kind}",
                    ways["curate"],
                    [ways["pyarrow"], ways["polars"]],
                    options.pairs,
                    warm=options.size != "toy",
                    targets={"PyArrow": 0.7},
                )
            )
            check_equal(folder)
    write("write", found, options)


if __name__ == "__main__":
    main()
