"""Arrow IPC, Feather, folders that datasets saves, ORC."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources import registry
from curate.sources.base import Columns

N = 7
TABLE = pa.table(
    {
        "id": [f"a{n}" for n in range(N)],
        "image": pa.array([{"bytes": b"x" * 50, "path": f"{n}.png"} for n in range(N)]),
        "label": pa.array(list(range(N)), pa.int32()),
        "vector": [[float(n + 1), 1.0] for n in range(N)],
    }
)


def write(path, form):
    if form == "file":
        with pa.ipc.new_file(path, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=3)
    elif form == "stream":
        with pa.ipc.new_stream(path, TABLE.schema) as writer:
            writer.write_table(TABLE, max_chunksize=3)
    elif form == "feather":
        pa.feather.write_feather(TABLE, path, compression="zstd", chunksize=3)
    else:
        pa.orc.write_table(TABLE, path)
    return str(path)


FORMS = {"file": ".arrow", "stream": ".arrow", "feather": ".feather", "orc": ".orc"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("remote", [False, True])
def test_rows_are_those_that_were_written(tmp_path, form, remote):
    path = write(tmp_path / f"0{FORMS[form]}", form)
    if remote:
        fsspec.filesystem("memory").put(path, f"/blocks/0{FORMS[form]}")
        path = f"memory://blocks/0{FORMS[form]}"
    [shard] = find_shards(Source(path=path))
    assert shard.format == ("orc" if form == "orc" else "arrow")
    reader = registry.format_of(shard.format).reader(Columns(image="image", uid="id", label="label"), False)
    assert reader.count(shard) == N and reader.schema(shard).names == TABLE.schema.names
    for batch_bytes in (1, 1 << 20):
        batches = list(reader.batches(shard, images=True, batch_bytes=batch_bytes, start=2, stop=6))
        assert [row for batch in batches for row in batch.row] == [2, 3, 4, 5]
        assert [uid for batch in batches for uid in batch.uid] == ["a2", "a3", "a4", "a5"]
        assert [label for batch in batches for label in batch.label] == ["2", "3", "4", "5"]
        assert {image for batch in batches for image in batch.image} == {b"x" * 50}
    for wanted in ([0, 1, 5], [2], list(range(N))):
        tables = reader.read_rows(shard, np.array(wanted), batch_bytes=100)
        assert pa.concat_tables(tables).to_pylist() == TABLE.take(wanted).to_pylist()
    [named] = reader.read_rows(shard, np.array([1]), batch_bytes=100, columns=["label", "id"])
    assert named.to_pylist() == [{"label": 1, "id": "a1"}]
    own = registry.format_of(shard.format).reader(Columns(vector="vector"), False)
    assert own.vector_length(shard) == 2
    assert [list(v) for b in own.batches(shard, images=True, batch_bytes=1 << 20) for v in b.vector][1] == [
        2.0,
        1.0,
    ]


def test_a_folder_that_datasets_saved(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, 1]}, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([2])}).save_to_disk(str(tmp_path / "saved"))
    write(tmp_path / "saved/train/cache-0123.arrow", "stream")  # of a map(), and no rows of the data set
    shards = find_shards(Source(path=str(tmp_path / "saved")))
    assert [(shard.split, shard.format) for shard in shards] == [("test", "arrow"), ("train", "arrow")]
    form = registry.format_of("arrow")
    reader = form.reader(Columns(), False)
    assert [reader.count(shard) for shard in shards] == [1, 3]
    found = form.columns(reader.schema(shards[1]))
    assert (found.caption, found.label) == ("text", "label")
    shutil.copy(shards[1].url, tmp_path / "saved/train/data-00009-of-00010.arrow")
    assert len(find_shards(Source(path=str(tmp_path / "saved")))) == 2
    Path(shards[1].url).unlink()
    with pytest.raises(SourceError, match=r"state\.json: lists data-00000.*not there"):
        find_shards(Source(path=str(tmp_path / "saved")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"FEA1" + b"\0" * 20, "Feather version 1; write it again"),
        (b"hello world, this is no table", "damaged or of another kind"),
        (None, "damaged or of another kind"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "0.arrow"
    write(path, "file")
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    [shard] = registry.format_of("arrow").find(str(path))
    with pytest.raises(SourceError, match=message) as error:
        registry.format_of("arrow").reader(Columns(), False).count(shard)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_categories_of_polars_are_read_however_deep_they_stand(tmp_path):
    """Polars writes them as dictionaries of views, which Arrow can neither take nor write to Parquet."""
    kinds = {
        "kind": pl.Enum(["x", "y"]),
        "many": pl.List(pl.Categorical),
        "inside": pl.Struct({"k": pl.Categorical}),
    }
    rows = {
        "kind": ["y", None, "x", "y"],
        "many": [["x", "y"], None, [], ["z", None]],
        "inside": [{"k": "a"}, {"k": None}, None, {"k": "b"}],
    }
    frame = pl.DataFrame(rows, schema=kinds)
    two = pl.Series("two", [["x", "y"], None, ["y", "y"], ["x", "x"]], dtype=pl.Array(pl.Enum(["x", "y"]), 2))
    frame.with_columns(two).write_ipc(tmp_path / "0.arrow")
    [shard] = registry.format_of("arrow").find(str(tmp_path / "0.arrow"))
    reader = registry.format_of("arrow").reader(Columns(label="kind"), False)
    assert [
        label for batch in reader.batches(shard, images=False, batch_bytes=1) for label in batch.label
    ] == rows["kind"]
    found = pa.concat_tables(reader.read_rows(shard, np.array([0, 1, 3]), batch_bytes=1))
    assert found.schema == reader.schema(shard)
    pq.write_table(found, tmp_path / "out.parquet")
    wanted = {
        name: [values[place] for place in (0, 1, 3)]
        for name, values in {**rows, "two": two.to_list()}.items()
    }
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == wanted
