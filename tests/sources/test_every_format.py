"""What holds in every format alike: one rule for captions, columns by name, the same rows in any batches."""

import importlib.util
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.pipeline.stages import read, read_task
from curate.recipe.loading import parse_recipe
from curate.sources.registry import FORMATS, ShardReader
from tests.fixtures.tars import save, tar

N = 5
A, B = [f"a{i}" for i in range(N)], [f"longer {i}" for i in range(N)]
YEARS = [2020 + i for i in range(N)]


def picture(number):
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


def table(**more):
    return pa.table({"image": [picture(i) for i in range(N)], "a": A, "b": B, "year": YEARS, **more})


def lines(image="image"):
    return [{image: f"{i}.png", "a": A[i], "b": B[i], "year": YEARS[i]} for i in range(N)]


def images(folder):
    for number in range(N):
        (folder / f"{number}.png").write_bytes(picture(number))


def delta(folder):
    pytest.importorskip("deltalake").write_deltalake(str(folder / "t"), table())
    return folder / "t"


def iceberg(folder):
    pytest.importorskip("pyiceberg")
    if importlib.util.find_spec("sqlalchemy") is None:
        pytest.skip("pyiceberg writes a table with its SQL catalog")
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("c", uri=f"sqlite:///{folder}/c.db", warehouse=f"file://{folder}/w")
    catalog.create_namespace("n")
    made = catalog.create_table("n.t", table().schema)
    made.append(table())
    catalog.close()
    return made.location().removeprefix("file://")


def csv_text(image):
    return f"{image},a,b,year\n" + "".join(f"{i}.png,{A[i]},{B[i]},{YEARS[i]}\n" for i in range(N))


def made(form, folder):
    """Write the same rows in a format; return the path, and what its columns a, b and year are called."""
    names = ("a", "b", "year")
    images(folder)
    if form == "parquet":
        pq.write_table(table(), folder / "x.parquet")
        return folder / "x.parquet", names
    if form == "hive":
        (folder / "kind=png").mkdir()
        pq.write_table(table(), folder / "kind=png" / "x.parquet")
        return folder / "*" / "x.parquet", names
    if form in ("arrow", "orc"):
        write = pyarrow.feather.write_feather if form == "arrow" else pyarrow.orc.write_table
        write(table(), folder / f"x.{form}")
        return folder / f"x.{form}", names
    if form in ("delta", "iceberg"):
        return (delta if form == "delta" else iceberg)(folder), names
    if form == "csv":
        (folder / "x.csv").write_text(csv_text("image"))
        return folder / "x.csv", names
    if form == "jsonl":
        (folder / "x.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines()))
        return folder / "x.jsonl", names
    if form == "json":
        (folder / "x.json").write_text(json.dumps(lines()))
        return folder / "x.json", names
    if form == "folder":
        (folder / "metadata.csv").write_text(csv_text("file_name"))
        return folder, names
    if form == "webdataset":
        members = [(f"{i}.png", picture(i)) for i in range(N)]
        sides = [
            (f"{i}.json", json.dumps({"a": A[i], "b": B[i], "year": YEARS[i]}).encode()) for i in range(N)
        ]
        pairs = [one for pair in zip(members, sides, strict=True) for one in pair]
        return save(folder, tar(*pairs)).url, ("json.a", "json.b", None)
    if form == "datacomp":
        pq.write_table(table(uid=[f"{i:032x}" for i in range(N)]).drop(["image"]), folder / "x.parquet")
        np.savez(folder / "x.npz", l14_img=np.eye(N, 8, dtype=np.float16))
        return folder / "x.parquet", names
    if form == "clip_retrieval":
        for name in ("metadata", "img_emb"):
            (folder / name).mkdir()
        pq.write_table(table().drop(["image"]), folder / "metadata" / "metadata_0.parquet")
        np.save(folder / "img_emb" / "img_emb_0.npy", np.eye(N, 8, dtype=np.float16))
        return folder, names
    more = {
        "key": [f"{i:09}" for i in range(N)],
        "status": ["success"] * N,
        "error_message": pa.nulls(N, pa.string()),
    }
    pq.write_table(
        table(**more).rename_columns(["jpg", *table().column_names[1:], *more]), folder / "00000.parquet"
    )
    (folder / "00000_stats.json").write_text("{}")
    return folder, names


FORMS = [*FORMATS, "hive"]


def source_of(form, path, caption):
    vectors = {"datacomp": "l14_img", "clip_retrieval": "img_emb"}.get(form)
    embed = {"model": "tiny"} if vectors is None else {"column": vectors}
    source = {"path": str(path), "format": "auto" if form == "hive" else form, "caption": caption}
    return parse_recipe({"run": "unused", "source": source, "embed": embed, "select": {"keep": 0.5}})


def rows_of(recipe, folder, batch_bytes=1 << 20, images=False):
    parts, bad = read.find_parts(recipe, folder / "known.json")
    assert bad == []
    return [
        rows
        for part in parts
        for rows, _ in read_task.read_batches(part, recipe.source[0], batch_bytes=batch_bytes, images=images)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_captions_of_several_columns(tmp_path, form):
    (tmp_path / "in").mkdir()
    path, (a, b, _) = made(form, tmp_path / "in")
    wanted = {"first": A, "longest": B, "join": [f"{x} {y}" for x, y in zip(A, B, strict=True)]}
    for take, captions in wanted.items():
        recipe = source_of(form, path, {"of": [a, b], "take": take})
        found = [text for rows in rows_of(recipe, tmp_path) for text in rows.caption]
        assert sorted(found) == sorted(captions), take


@pytest.mark.parametrize("form", FORMS)
def test_rows_do_not_depend_on_batches(tmp_path, form):
    (tmp_path / "in").mkdir()
    path, (a, *_) = made(form, tmp_path / "in")
    recipe = source_of(form, path, a)
    whole, single = (rows_of(recipe, tmp_path, size, images=True) for size in (1 << 20, 1))
    for field in ("row", "key", "image", "image_ref", "caption", "outcome"):
        values = [[value for rows in found for value in getattr(rows, field)] for found in (whole, single)]
        assert values[0] == values[1], field
    assert {one for rows in whole for one in rows.outcome} == {"ok"}


@pytest.mark.parametrize("form", FORMS)
def test_columns_by_name(tmp_path, form):
    (tmp_path / "in").mkdir()
    path, (*_, year) = made(form, tmp_path / "in")
    shards = read.find_shards(
        source_of(form, path, None if form in ("datacomp", "clip_retrieval") else "auto").source[0]
    )
    names = ["json" if year is None else year, *(["kind"] if form == "hive" else [])]
    places = np.array([1, 3])
    (found,) = [
        pa.concat_tables(ShardReader().read_rows(one, places, batch_bytes=1, columns=names)) for one in shards
    ]
    whole = pa.concat_tables(ShardReader().read_rows(shards[0], places, batch_bytes=1 << 20))
    assert found.column_names == names
    assert found.equals(whole.select(names))
    if form == "hive":
        (alone,) = ShardReader().read_rows(shards[0], places, batch_bytes=1 << 20, columns=["kind"])
        assert alone.to_pydict() == {"kind": ["png", "png"]}
