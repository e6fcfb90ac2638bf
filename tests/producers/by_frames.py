"""Data sets as frames, databases, and tables that are more than their files write them."""

from tests.producers import truth
from tests.producers.registry import producer, write_images


def frame(**more):
    import pandas

    return pandas.DataFrame({**truth.columns(), **more})


def pandas_table(folder):
    """Write a frame with an index, a category and times; the null makes floats of its whole numbers."""
    import pandas

    rows = frame(image=truth.images(), seen=pandas.date_range("2024-02-28", periods=truth.N, tz="UTC"))
    rows["label"] = rows["label"].astype("category")
    rows.index = pandas.Index([100 + number for number in range(truth.N)], name="index")
    rows.to_parquet(folder / "rows.parquet")


@producer("pandas", "pyarrow")
def pandas_parquet(folder):
    """`to_parquet` of a frame with an index, a category, times and whole numbers with a null."""
    pandas_table(folder)


@producer("pandas", "pyarrow", environment="pandas2")
def pandas2_parquet(folder):
    """The same with pandas 2, whose text columns are objects."""
    pandas_table(folder)


@producer("pandas")
def pandas_csv(folder):
    """`to_csv` with the paths of images."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_csv(folder / "rows.csv", index=False)


@producer("pandas")
def pandas_jsonl(folder):
    r"""`to_json(orient="records", lines=True)`, which writes `\/` and escapes everything beyond ASCII."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_json(folder / "rows.jsonl", orient="records", lines=True)


@producer("pandas")
def pandas_json(folder):
    """`to_json(orient="records")`: one list of objects."""
    names = write_images(folder, "images/{:04d}.png".format)
    frame(image=names).to_json(folder / "rows.json", orient="records", indent=1)


def duck():
    """Return a DuckDB with a table `rows`; labels are an enumeration."""
    import duckdb

    database = duckdb.connect()
    classes = ", ".join(f"'{name}'" for name in truth.CLASSES)
    database.execute(f"create type kind as enum ({classes})")
    database.execute(
        "create table rows (image blob, id text, caption text, label kind, score double, count bigint, year int)"
    )
    values = list(zip(truth.images(), *truth.columns().values(), strict=True))
    database.executemany("insert into rows values (?, ?, ?, ?, ?, ?, ?)", values)
    return database


def duck_with_files(folder):
    """Return a DuckDB with a table `files`: the rows with the paths of their images, which are written."""
    names, database = write_images(folder, "images/{:04d}.png".format), duck()
    database.execute("create table files as select * replace (null::text as image) from rows")
    database.executemany("update files set image = ? where id = ?", list(zip(names, truth.IDS, strict=True)))
    return database


@producer("duckdb")
def duckdb_parquet(folder):
    """`COPY ... TO`, Parquet with an enumeration."""
    with duck() as database:
        database.execute(f"copy rows to '{folder}/rows.parquet' (format parquet, compression zstd)")


@producer("duckdb")
def duckdb_hive(folder):
    """`COPY ... TO`, partitioned by year and by label: the values stand in the names of folders."""
    with duck() as database:
        database.execute(
            f"copy rows to '{folder}' (format parquet, partition_by (year, label), overwrite_or_ignore)"
        )


@producer("duckdb")
def duckdb_csv(folder):
    """`COPY ... TO`, CSV: text that is empty is quoted, nothing is not."""
    with duck_with_files(folder) as database:
        database.execute(f"copy (from files order by id) to '{folder}/rows.csv' (header)")


@producer("duckdb")
def duckdb_json(folder):
    """`COPY ... TO`, JSON lines in a file named .json."""
    with duck_with_files(folder) as database:
        database.execute(f"copy (from files order by id) to '{folder}/rows.json'")


def polars_frame():
    import polars

    pictures = [{"bytes": data, "path": None if data is None else f"{number:04d}.png"}
                for number, data in enumerate(truth.images())]  # fmt: skip
    rows = polars.DataFrame({"image": pictures, **truth.columns()})
    return rows.with_columns(polars.col("label").cast(polars.Categorical))


@producer("polars")
def polars_parquet(folder):
    """`write_parquet`, with a category and images as structs."""
    polars_frame().write_parquet(folder / "rows.parquet", row_group_size=4)


@producer("polars")
def polars_ipc(folder):
    """`write_ipc` as it does by default: text and bytes as views."""
    polars_frame().write_ipc(folder / "rows.arrow", compression="zstd")


@producer("polars")
def polars_partitioned(folder):
    """`write_parquet` partitioned by year."""
    polars_frame().write_parquet(folder, partition_by="year")


@producer("polars")
def polars_ndjson(folder):
    """`write_ndjson` with the paths of images."""
    import polars

    names = write_images(folder, "images/{:04d}.png".format)
    polars.DataFrame({"image": names, **truth.columns()}).write_ndjson(folder / "rows.ndjson")


def arrow_table():
    import pyarrow as pa

    return pa.table({"image": pa.array(truth.images(), pa.binary()), **truth.columns()})


@producer("pyarrow")
def pyarrow_dataset(folder):
    """`write_dataset` with Hive folders by year, and a second file for later rows."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    by = ds.partitioning(pa.schema([("year", pa.int64())]), flavor="hive")
    for place, rows in enumerate((arrow_table().slice(0, 6), arrow_table().slice(6))):
        ds.write_dataset(rows, folder, format="parquet", partitioning=by, basename_template=f"part-{place}-{{i}}.parquet",
                         existing_data_behavior="overwrite_or_ignore")  # fmt: skip


@producer("pyarrow")
def pyarrow_orc(folder):
    """`orc.write_table`."""
    import pyarrow.orc

    pyarrow.orc.write_table(arrow_table(), folder / "rows.orc")


# --- tables that are more than their files -------------------------------------------------------------------------


@producer("deltalake")
def delta(folder):
    """A Delta table in two versions with rows deleted and rows changed since: their old files are still there."""
    import deltalake
    import pyarrow as pa

    later = arrow_table()
    wrong = later.slice(0, 6).set_column(2, "caption", pa.array(["out of date"] * 6, pa.string()))
    ghosts = later.slice(0, 2).set_column(1, "id", pa.array(["ghost1", "ghost2"]))
    deltalake.write_deltalake(str(folder), pa.concat_tables([wrong, ghosts]))
    table = deltalake.DeltaTable(str(folder))
    table.delete("id like 'ghost%'")
    table.delete("caption = 'out of date'")
    deltalake.write_deltalake(str(folder), later, mode="append")


@producer("pyiceberg")
def iceberg(folder):
    """An Iceberg table with rows deleted since."""
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    rows = arrow_table()
    table = catalog.create_table("n.rows", rows.schema)
    ghosts = rows.slice(0, 2).set_column(1, "id", pa.array(["ghost1", "ghost2"]))
    table.append(pa.concat_tables([rows, ghosts]))
    table.delete("id == 'ghost1' or id == 'ghost2'")
    catalog.close()
