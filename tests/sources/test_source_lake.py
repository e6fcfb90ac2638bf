"""Tables that are more than their Parquet files: read through their log, or refused by name, never read as plain files."""

import base64
import json
import struct
import sys
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import CurateError, UsageError
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.sources import registry
from curate.sources.base import Columns

Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
SCHEMA = {
    "type": "struct",
    "fields": [
        {"name": name, "type": kind, "nullable": True, "metadata": {}}
        for name, kind in (
            ("id", "string"), ("year", "integer"), ("emb", {"type": "array", "elementType": "double", "containsNull": True}),
            ("note", "string"),
        )
    ],
}  # fmt: skip


def deletion_vector(positions):
    """Return a vector of deleted positions as a Delta log holds it: a bitmap of one array container, in Z85."""
    container = struct.pack(f"<{len(positions)}H", *positions)
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(positions) - 1, 16) + container
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = data + b"\0" * (-len(data) % 4)
    to_z85 = bytes.maketrans(base64._b85alphabet, Z85.encode())
    text = base64.b85encode(padded).translate(to_z85).decode()
    return {
        "storageType": "i",
        "pathOrInlineDv": text,
        "sizeInBytes": len(data),
        "cardinality": len(positions),
    }


def rows(names):
    return {"id": names, "emb": [[1.0, float(len(name)), 2.0] for name in names]}


def write_delta(root, *, features=("deletionVectors",), configuration=None):
    """Write a table of two versions: one file was replaced, and from another two rows were deleted."""
    log = root / "_delta_log"
    log.mkdir(parents=True)
    adds = {}
    for year, name, ids in (
        (2023, "old", "abc"),
        (2023, "new", "ac"),
        (2024, "cut", "defgh"),
        (2024, "late", "i"),
    ):
        path = f"year={year}/{name}.parquet"
        (root / path).parent.mkdir(exist_ok=True)
        table = rows(list(ids)) | ({"note": ["x"]} if name == "late" else {})
        pq.write_table(pa.table(table), root / path, row_group_size=2)
        size = (root / path).stat().st_size
        adds[name] = {
            "path": path, "partitionValues": {"year": str(year)}, "size": size, "modificationTime": 1, "dataChange": True,
            "stats": json.dumps({"numRecords": len(ids)}),
        }  # fmt: skip
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7}
    protocol |= {"readerFeatures": list(features), "writerFeatures": list(features)}
    about = {
        "id": "1", "format": {"provider": "parquet", "options": {}}, "schemaString": json.dumps(SCHEMA),
        "partitionColumns": ["year"], "configuration": configuration or {}, "createdTime": 1,
    }  # fmt: skip
    first = [{"protocol": protocol}, {"metaData": about}, {"add": adds["old"]}, {"add": adds["cut"]}]
    gone = [{"remove": {**adds[name], "deletionTimestamp": 2}} for name in ("old", "cut")]
    cut = {**adds["cut"], "deletionVector": deletion_vector([1, 4])}
    second = [*gone, {"add": adds["new"]}, {"add": cut}, {"add": adds["late"]}]
    for number, lines in enumerate((first, second)):
        (log / f"{number:020d}.json").write_text("\n".join(map(json.dumps, lines)))
    return root


def read(path, *, start=0, stop=None, batch_bytes=1 << 20, **roles):
    """Return the samples of a source, in shard order."""
    found = []
    for shard in find_shards(Source(path=path)):
        reader = registry.format_of(shard.format).reader(Columns(**roles), False)
        registry.check_unchanged(shard)
        for batch in reader.batches(shard, images=True, batch_bytes=batch_bytes, start=start, stop=stop):
            assert list(batch.row) == list(range(batch.row[0], batch.row[0] + len(batch)))
            found += zip(batch.uid, batch.label, batch.outcome, strict=True)
    return found


def fingerprint(shard):
    return registry.format_of(shard.format).fingerprint(shard)


def lacking(monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


LIVE = (
    [(name, "2023", "ok") for name in "ac"] + [(name, "2024", "ok") for name in "dfg"] + [("i", "2024", "ok")]
)


def test_only_rows_that_a_delta_table_still_has_are_read(tmp_path):
    pytest.importorskip("deltalake")
    root = write_delta(tmp_path / "t")
    roles = {"uid": "id", "label": "year", "vector": "emb"}
    assert sorted(read(str(root), **roles)) == LIVE
    assert sorted(read(str(root), batch_bytes=1, **roles)) == LIVE
    assert sorted(read(str(root / "year=2024" / "*.parquet"), **roles)) == LIVE[2:]
    assert sorted(read(str(root / "year=2023"), **roles)) == LIVE[:2]
    assert read(str(root / "year=2024/cut.parquet"), start=1, stop=3, **roles) == LIVE[3:5]
    [shard] = find_shards(Source(path=str(root / "year=2024/cut.parquet")))
    reader = registry.ShardReader()
    assert reader.schema(shard).names == ["id", "year", "emb", "note"]
    table = pa.concat_tables(reader.read_rows(shard, np.array([0, 2]), batch_bytes=1 << 20))
    expected = {"year": 2024, "note": None, "emb": [1.0, 1.0, 2.0]}
    kind = registry.format_of("delta").reader(Columns(), False)
    [named] = kind.read_rows(shard, np.array([1]), batch_bytes=1 << 20, columns=["year", "id"])
    assert named.to_pylist() == [{"year": 2024, "id": "f"}]
    assert table.to_pylist() == [{"id": "d", **expected}, {"id": "g", **expected}]


def test_a_new_version_of_a_delta_table_leaves_untouched_files_as_they_were(tmp_path):
    pytest.importorskip("deltalake")
    root = write_delta(tmp_path / "t")
    later = root / "_delta_log" / f"{1:020d}.json"
    lines = later.read_text()
    later.unlink()
    before = {shard.name: fingerprint(shard) for shard in find_shards(Source(path=str(root)))}
    later.write_text(lines)
    after = {shard.name: fingerprint(shard) for shard in find_shards(Source(path=str(root)))}
    assert before.keys() == {"year=2023/old.parquet", "year=2024/cut.parquet"}
    assert before["year=2024/cut.parquet"] != after["year=2024/cut.parquet"]  # rows were deleted from it
    (root / "_delta_log" / f"{2:020d}.json").write_text(json.dumps({"commitInfo": {"operation": "NOTHING"}}))
    assert {s.name: fingerprint(s) for s in find_shards(Source(path=str(root)))} == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"configuration": {"delta.columnMapping.mode": "name"}}, "uses columnMapping"),
        ({"features": ("deletionVectors", "columnMapping")}, "uses columnMapping"),
    ],
)
def test_a_delta_table_that_needs_more_is_refused_by_name(tmp_path, change, message):
    pytest.importorskip("deltalake")
    root = write_delta(tmp_path / "t", **change)
    with pytest.raises(
        UsageError, match=rf"a Delta table: it {message}[^;]*; read it with another tool .*curate\.filter"
    ):
        find_shards(Source(path=str(root)))


def test_a_delta_table_without_one_of_its_files_is_no_shorter_table(tmp_path):
    pytest.importorskip("deltalake")
    root = write_delta(tmp_path / "t")
    (root / "year=2024/late.parquet").unlink()
    with pytest.raises(
        CurateError, match=r"late\.parquet: a Delta table lists this file, but it is not there"
    ):
        find_shards(Source(path=str(root)))


def plain_table(root, sign):
    """A folder of Parquet files beside what tells a table."""
    (root / "data/year=2024").mkdir(parents=True)
    pq.write_table(pa.table(rows(["a"])), root / "data/year=2024/0.parquet")
    (root / sign).parent.mkdir(exist_ok=True)
    (root / sign).write_bytes(b"{}")
    return root


SIGNS = {
    "_delta_log/00000000000000000000.json": ("Delta table", r"curate\[delta\]"),
    "metadata/v1.metadata.json": ("Iceberg table", r"curate\[iceberg\]"),
    ".hoodie/hoodie.properties": ("Hudi table", "write a snapshot as Parquet"),
    "_versions/1.manifest": ("Lance data set", "pylance"),
    "_latest.manifest": ("Lance data set", "pylance"),
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("", "auto"), ("/data/year=2024", "auto"), ("/data/*/*.parquet", "auto"), ("/**/*.parquet", "parquet"),
        ("/data/year=2024/0.parquet", "parquet"),
    ],
)  # fmt: skip
def test_a_table_is_refused_by_name_wherever_the_path_points(tmp_path, sign, path, form, monkeypatch):
    for package in ("deltalake", "pyiceberg"):
        lacking(monkeypatch, package)
    root = plain_table(tmp_path / "t", sign)
    what, way = SIGNS[sign]
    with pytest.raises(UsageError, match=rf"{root}: an? {what}: .*{way}"):
        find_shards(Source(path=f"{root}{path}", format=form))


@pytest.mark.parametrize("sign", SIGNS)
def test_a_table_is_refused_in_a_folder_of_several_and_at_a_url(tmp_path, sign):
    plain_table(tmp_path / "all/t", sign)
    with pytest.raises(UsageError, match=f"all/t: an? {SIGNS[sign][0]}"):
        find_shards(Source(path=str(tmp_path / "all"), format="parquet"))
    at = f"lake-{list(SIGNS).index(sign)}"
    fsspec.filesystem("memory").put(str(tmp_path / "all"), f"/{at}", recursive=True)
    with pytest.raises(UsageError, match=f"memory:///?{at}/t: an? {SIGNS[sign][0]}"):
        find_shards(Source(path=f"memory://{at}/t/data/*/*.parquet", format="parquet"))


def test_plain_folders_are_no_tables(tmp_path):
    root = plain_table(tmp_path / "t", "metadata/metadata_0.parquet")
    (root / "metadata/metadata_0.parquet").unlink()
    assert [shard.name for shard in find_shards(Source(path=str(root)))] == ["data/year=2024/0.parquet"]


def write_iceberg(folder):
    """Write a table with a deletion, a renamed column and a partition; return its folder."""
    memory = pytest.importorskip("pyiceberg.catalog.memory")
    pytest.importorskip("pyiceberg.io.pyarrow")
    catalog = memory.InMemoryCatalog("c", warehouse=str(folder))
    catalog.create_namespace("n")
    first = pa.table(rows(list("abcd")) | {"kind": ["x", "x", "y", "y"]})
    table = catalog.create_table("n.t", schema=first.schema)
    with table.update_spec() as spec:
        spec.add_identity("kind")
    table.append(first)
    table.delete("id == 'b'")
    with table.update_schema() as change:
        change.rename_column("id", "key")
    with table.update_schema() as change:
        change.add_column("id", table.schema().find_field("kind").field_type)
    table.append(pa.table({"key": ["e"], "emb": [[1.0, 2.0, 3.0]], "kind": ["y"], "id": ["other"]}))
    catalog.close()  # Python 3.13 warns of a database that is left open
    return folder / "n/t"


ICEBERG = [("a", "x", "ok"), ("c", "y", "ok"), ("d", "y", "ok"), ("e", "y", "ok")]


def test_only_rows_that_an_iceberg_table_still_has_are_read(tmp_path):
    root = write_iceberg(tmp_path)
    roles = {"uid": "key", "label": "kind", "vector": "emb"}
    assert sorted(read(str(root), **roles)) == ICEBERG
    assert sorted(read(str(root / "data/*/*.parquet"), **roles)) == ICEBERG
    moved = root.rename(tmp_path / "moved")
    assert sorted(read(str(moved), **roles)) == ICEBERG
    fsspec.filesystem("memory").put(str(moved), "/ice", recursive=True)
    assert sorted(read("memory://ice", **roles)) == ICEBERG


def test_position_deletes_of_an_iceberg_table_are_applied(tmp_path):
    from curate.sources.lake import iceberg

    path = f"{tmp_path}/data/0.parquet"
    deletes = pa.table({"file_path": [path, "other", path, path], "pos": [4, 0, 1, 4]})
    pq.write_table(deletes, tmp_path / "d.parquet")
    found = iceberg._positions(iceberg._Deletes(path, (f"{tmp_path}/d.parquet",)), None)
    assert found.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("names", "hint", "expected"),
    [
        (["v9", "v10", "v2"], None, "v10"),
        (["00009-b", "00010-a"], None, "00010-a"),
        (["v1", "v2", "v3"], "2", "v2"),
        (["v1", "v2"], "7", "v2"),  # a hint at a file that is gone
    ],
)
def test_the_newest_metadata_of_an_iceberg_table(tmp_path, names, hint, expected):
    from curate.sources.lake import iceberg

    (tmp_path / "metadata").mkdir()
    for name in names:
        (tmp_path / f"metadata/{name}.metadata.json").touch()
    if hint is not None:
        (tmp_path / "metadata/version-hint.text").write_text(f"{hint}\n")
    assert iceberg.newest(str(tmp_path), None) == f"{expected}.metadata.json"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3a://bucket/t/data/0.parquet", "data/0.parquet"),
        ("s3://bucket/t/data/0.parquet", "data/0.parquet"),
        ("/copy/t/data/0.parquet", "data/0.parquet"),
        ("s3://bucket/t2/data/0.parquet", None),
        ("s3://bucket/t/../../secret", None),
        ("/etc/passwd", None),
    ],
)
def test_files_of_an_iceberg_table_lie_in_its_folder(location, expected):
    from curate.sources.lake import iceberg

    if expected is None:
        with pytest.raises(UsageError, match="does not lie in its folder"):
            iceberg._rest(location, "s3://bucket/t", "/copy/t")
    else:
        assert iceberg._rest(location, "s3://bucket/t/", "/copy/t") == expected


def test_deltalake_is_given_the_options_of_the_source(monkeypatch):
    from curate.sources.lake import delta

    monkeypatch.setenv("SECRET", "word")
    options = {
        "key": "me", "secret": "${SECRET}", "anon": False,
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "eu-1"},
    }  # fmt: skip
    assert delta._options("s3://bucket/t", options) == {
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "word", "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true", "AWS_REGION": "eu-1",
    }  # fmt: skip
    assert delta._options("/disk/t", None) is None and delta._options("gs://bucket/t", None) is None
    with pytest.raises(UsageError, match="copy the table to a disk"):
        delta._options("gs://bucket/t", {"token": "x"})


def puffin(deleted):
    """Return a Puffin file with a deletion vector for each data file: {path: positions}."""
    from pyroaring import BitMap

    data, blobs = b"PFA1", []
    for path, positions in deleted.items():
        bitmap = b"\xd1\xd3\x39\x64" + struct.pack("<qI", 1, 0) + BitMap(positions).serialize()
        blob = struct.pack(">I", len(bitmap)) + bitmap + struct.pack(">I", zlib.crc32(bitmap))
        about = {"referenced-data-file": path, "cardinality": str(len(positions))}
        blobs.append(
            {"type": "deletion-vector-v1", "fields": [], "snapshot-id": -1, "sequence-number": -1, "offset": len(data),
             "length": len(blob), "properties": about}
        )  # fmt: skip
        data += blob
    footer = json.dumps({"blobs": blobs}).encode()
    return data + b"PFA1" + footer + struct.pack("<i", len(footer)) + bytes(4) + b"PFA1"


def write_deletes(folder, kind):
    """Write a table of rows a to f whose last snapshot has a delete file of a kind; return its folder.

    The library writes no delete files: the manifest is made with its writer, and the metadata file by hand.
    """
    memory = pytest.importorskip("pyiceberg.catalog.memory")
    pytest.importorskip("pyiceberg.io.pyarrow")
    from pyiceberg import manifest
    from pyiceberg.typedef import Record

    class Deletes(manifest.ManifestWriterV2):
        def content(self):
            return manifest.ManifestContent.DELETES

        @property
        def _meta(self):
            return {**super()._meta, "content": "deletes"}

    catalog = memory.InMemoryCatalog("c", warehouse=str(folder))
    catalog.create_namespace("n")
    first = pa.table(rows(list("abcdef")))
    table = catalog.create_table("n.t", schema=first.schema)
    table.append(first)
    root, before = folder / "n/t", table.current_snapshot()
    path = next(iter(table.scan().plan_files())).file.file_path
    content, form, more = manifest.DataFileContent.POSITION_DELETES, manifest.FileFormat.PARQUET, {}
    file = root / ("data/d.puffin" if kind == "vector" else "data/d.parquet")
    if kind == "position":
        pq.write_table(pa.table({"file_path": [path] * 2, "pos": [1, 4]}), file)
    elif kind == "equality":
        content, more = manifest.DataFileContent.EQUALITY_DELETES, {"equality_ids": [1]}
        pq.write_table(pa.table({"id": ["b", "e"]}), file)
    elif kind == "vector":
        form = manifest.FileFormat.PUFFIN
        file.write_bytes(puffin({"other": [0], path: [1, 4]}))
    else:
        form = manifest.FileFormat.ORC
    one = manifest.DataFile.from_args(
        content=content, file_format=form, file_path=str(file), partition=Record(), record_count=2,
        file_size_in_bytes=1, **more,
    )  # fmt: skip
    one.spec_id = 0
    number, output = table.metadata.last_sequence_number + 1, table.io.new_output
    with Deletes(table.spec(), table.schema(), output(f"{root}/metadata/d.avro"), 7, "deflate") as writer:
        writer.add_entry(
            manifest.ManifestEntry.from_args(
                status=manifest.ManifestEntryStatus.ADDED, snapshot_id=7, sequence_number=number,
                file_sequence_number=number, data_file=one,
            )
        )  # fmt: skip
    listed = f"{root}/metadata/snap-7.avro"
    with manifest.write_manifest_list(2, output(listed), 7, before.snapshot_id, number, "deflate") as lists:
        lists.add_manifests([writer.to_manifest_file(), *before.manifests(table.io)])
    about = json.loads(Path(table.metadata_location.removeprefix("file://")).read_text())
    new = {
        "snapshot-id": 7,
        "parent-snapshot-id": before.snapshot_id,
        "sequence-number": number,
        "manifest-list": listed,
    }
    about["snapshots"].append(about["snapshots"][-1] | new | {"summary": {"operation": "delete"}})
    about |= {"last-sequence-number": number, "current-snapshot-id": 7}
    about["refs"]["main"]["snapshot-id"] = 7
    (root / "metadata/00099-d.metadata.json").write_text(json.dumps(about))
    catalog.close()
    return root


@pytest.mark.parametrize("kind", ["position", "vector"])
def test_deleted_positions_of_an_iceberg_table_are_not_read(tmp_path, kind):
    root = write_deletes(tmp_path, kind)
    assert [row[0] for row in read(str(root), uid="id", vector="emb")] == list("acdf")
    [shard] = find_shards(Source(path=str(root)))
    (root / "metadata/00099-d.metadata.json").unlink()  # the table before
    [before] = find_shards(Source(path=str(root)))
    assert [row[0] for row in read(str(root), uid="id", vector="emb")] == list("abcdef")
    assert shard.version != before.version


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("equality", r"n/t: an Iceberg table: it has equality deletes, .*rewrite_data_files.*as Parquet"),
        ("orc", r"n/t: an Iceberg table: it has ORC files, which curate cannot read; .*curate\.filter"),
    ],
)
def test_deletes_of_an_iceberg_table_that_cannot_be_applied_are_refused_in_one_line(tmp_path, kind, message):
    root = write_deletes(tmp_path, kind)
    with pytest.raises(UsageError, match=message) as error:
        read(str(root), uid="id", vector="emb")
    assert "\n" not in str(error.value)


def test_a_damaged_deletion_vector_does_not_bring_rows_back(tmp_path):
    root = write_deletes(tmp_path, "vector")
    for damage in (b"", b"PFA1", (root / "data/d.puffin").read_bytes()[:-30]):
        (root / "data/d.puffin").write_bytes(damage)
        with pytest.raises(CurateError, match=r"d\.puffin: this file of deletion vectors cannot be read"):
            read(str(root), uid="id", vector="emb")
