"""What img2dataset leaves behind, written by hand in its three forms."""

import io
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import SourceError, UsageError
from curate.pipeline.stages.read import find_shards
from curate.recipe import Source
from curate.schema import OUTCOMES
from curate.sources import registry
from curate.sources.base import Columns
from curate.sources.img2dataset import img2dataset

FORMS = ("webdataset", "parquet", "files")
STATUS = ("success", "failed_to_download", "success", "failed_to_resize", "success")
ERRORS = (None, "HTTP Error 404: Not Found", None, None, None)


def key(row):
    return f"{row:09d}"


def image(row):
    return b"image %d" % row


def put(fs, path, data):
    with fs.open(path, "wb") as file:
        file.write(data)


def write(url, form, *, number=0, stats=True, in_tar=(0, 2, 4), extra=None):
    """Write one shard of five addresses; the images in `in_tar` were had."""
    fs, folder = fsspec.url_to_fs(str(url))
    fs.makedirs(folder, exist_ok=True)
    stem = f"{folder}/{number:05d}"
    table = {
        "url": [f"https://x.invalid/{row}" for row in range(5)], "caption": [f"caption {row}" for row in range(5)],
        "key": [key(row) for row in range(5)], "status": STATUS, "error_message": ERRORS, "width": [1, None, 3, None, 5],
    }  # fmt: skip
    if form == "parquet":
        table["jpg"] = [image(row) if row in in_tar else None for row in range(5)]
    members = {f"{key(row)}.jpg": image(row) for row in in_tar}
    members |= {f"{key(row)}.txt": b"caption %d" % row for row in in_tar} | (extra or {})
    if form == "files":
        fs.makedirs(stem, exist_ok=True)
        for name, data in members.items():
            put(fs, f"{stem}/{name}", data)
    if form == "webdataset":
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            for name in sorted(members):
                info = tarfile.TarInfo(name)
                info.size = len(members[name])
                tar.addfile(info, io.BytesIO(members[name]))
        put(fs, f"{stem}.tar", sink.getvalue())
    sink = io.BytesIO()
    pq.write_table(pa.table({name: list(values) for name, values in table.items()}), sink)
    put(fs, f"{stem}.parquet", sink.getvalue())
    if stats:
        put(fs, f"{stem}_stats.json", b"{}")


def read(shard, *, images=True, batch_bytes=1 << 20, start=0, stop=None, uid=None):
    form = registry.format_of(shard.format)
    columns = form.columns(
        registry.ShardReader().schema(shard), image="auto", caption="auto", label="auto", uid=uid
    )
    reader = form.reader(columns, False)
    batches = list(reader.batches(shard, images=images, batch_bytes=batch_bytes, start=start, stop=stop))
    names = ("row", "key", "image", "image_ref", "caption", "outcome", "reason")
    merged = {name: [value for batch in batches for value in getattr(batch, name)] for name in names}
    merged["uid"] = [one for batch in batches for one in batch.uid or ()]
    assert set(merged["outcome"]) <= set(OUTCOMES)
    assert all((o == "ok") == (r is None) for o, r in zip(merged["outcome"], merged["reason"], strict=True))
    if start == 0 and stop is None:
        assert merged["row"] == list(range(reader.count(shard)))
    return merged


def by_key(got, name):
    return dict(zip(got["key"], got[name], strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_failed_rows_are_failed_not_missing(tmp_path, form, batch_bytes):
    write(tmp_path, form)
    assert registry.detect([str(tmp_path)]) == "img2dataset"
    (shard,) = img2dataset.find(str(tmp_path))
    got = read(shard, batch_bytes=batch_bytes)
    assert sorted(got["key"]) == [key(row) for row in range(5)]
    assert by_key(got, "image") == {key(row): image(row) if row in (0, 2, 4) else None for row in range(5)}
    assert by_key(got, "caption") == {key(row): f"caption {row}" for row in range(5)}
    outcomes, reasons = by_key(got, "outcome"), by_key(got, "reason")
    assert [outcomes[key(row)] for row in range(5)] == [
        "ok",
        "failed_download",
        "ok",
        "failed_download",
        "ok",
    ]
    assert reasons[key(1)] == "HTTP Error 404: Not Found" and "failed_to_resize" in reasons[key(3)]
    assert len({*got["image_ref"]} - {None}) >= 2
    for start, stop in ((0, 1), (1, 4), (3, 5), (4, 5)):
        part = read(shard, start=start, stop=stop)
        assert part["key"] == got["key"][start:stop] and part["image"] == got["image"][start:stop]


@pytest.mark.parametrize("form", FORMS)
def test_whole_rows(tmp_path, form):
    write(tmp_path, form)
    (shard,) = img2dataset.find(str(tmp_path))
    reader = registry.ShardReader()
    for rows in ([0], [1, 2, 4], [0, 1, 2, 3, 4]):
        table = pa.concat_tables(reader.read_rows(shard, np.array(rows), batch_bytes=1))
        assert table.schema == reader.schema(shard) and table.num_rows == len(rows)
    column = {"webdataset": "jpg", "parquet": "jpg", "files": "image"}[form]
    have = [row[column]["bytes"] if form == "files" else row[column] for row in table.to_pylist()]
    assert have == read(shard)["image"]


@pytest.mark.parametrize("form", FORMS)
def test_named_uids(tmp_path, form):
    write(tmp_path, form)
    (shard,) = img2dataset.find(str(tmp_path))
    got = read(shard, uid="__key__" if form == "webdataset" else "key")
    assert got["uid"] == got["key"]


@pytest.mark.parametrize("form", FORMS)
def test_lost_images_are_missing(tmp_path, form):
    write(tmp_path, form, in_tar=(0, 4))
    (shard,) = img2dataset.find(str(tmp_path))
    assert by_key(read(shard), "outcome")[key(2)] == "missing_image"


def test_images_that_the_parquet_file_does_not_know_are_rows(tmp_path):
    more = {"zzz.jpg": b"more", "zzz.txt": b"said"}
    for form in ("files", "webdataset"):
        write(tmp_path / form, form, extra=more)
        (shard,) = img2dataset.find(str(tmp_path / form))
        got = read(shard)
        assert len(got["key"]) == 6 and by_key(got, "image")[key(4)] == image(4)
        assert b"more" in got["image"] and "said" in got["caption"]


def test_links_out_of_a_shard_are_refused(tmp_path):
    write(tmp_path / "x", "files")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    inside = tmp_path / "x" / "00000" / f"{key(0)}.jpg"
    inside.unlink()
    inside.symlink_to(tmp_path / "secret.jpg")
    got = read(img2dataset.find(str(tmp_path / "x"))[0])
    assert by_key(got, "outcome")[key(0)] == "refused_path" and b"secret" not in got["image"]


@pytest.mark.parametrize("form", FORMS)
def test_unfinished_shards(tmp_path, form):
    write(tmp_path, form)
    write(tmp_path, form, number=1, stats=False)
    shards = find_shards(Source(path=str(tmp_path)))
    assert len(shards) == 2
    with pytest.raises(SourceError, match=r"00001_stats\.json"):
        registry.ShardReader().schema(shards[1])
    assert len(find_shards(Source(path=str(tmp_path), unfinished="skip"))) == 1
    (tmp_path / "00000_stats.json").unlink()
    with pytest.raises(UsageError, match="none of 2 shards is finished"):
        find_shards(Source(path=str(tmp_path), format="img2dataset", unfinished="skip"))


@pytest.mark.parametrize("form", FORMS)
def test_changes_are_noticed(tmp_path, form):
    write(tmp_path, form)
    (shard,) = img2dataset.find(str(tmp_path))
    registry.check_unchanged(shard)
    before = registry.format_of(shard.format).fingerprint(shard)
    write(tmp_path, form, in_tar=(0, 2))
    if form == "files":
        (tmp_path / "00000" / f"{key(4)}.jpg").unlink()
    with pytest.raises(SourceError, match="changed since it was read"):
        registry.check_unchanged(shard)
    assert registry.format_of(shard.format).fingerprint(img2dataset.find(str(tmp_path))[0]) != before


def test_what_is_no_img2dataset_folder(tmp_path):
    with pytest.raises(UsageError, match="no shard of img2dataset"):
        img2dataset.find(str(tmp_path))
    pq.write_table(pa.table({"jpg": [b"x"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_bytes(b"{}")
    (shard,) = img2dataset.find(str(tmp_path))
    with pytest.raises(SourceError, match="no column 'key'"):
        list(
            img2dataset.FORMAT.reader(Columns(image="jpg"), False).batches(shard, images=True, batch_bytes=1)
        )


@pytest.mark.parametrize("form", FORMS)
def test_anywhere(form):
    write(f"memory://{form}", form)
    (shard,) = img2dataset.find(f"memory://{form}")
    registry.check_unchanged(shard)
    assert sum(outcome == "ok" for outcome in read(shard)["outcome"]) == 3
    assert registry.detect([f"memory://{form}"]) == "img2dataset"
