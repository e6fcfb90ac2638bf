"""Tars for tests: good ones, and ones that nobody should trust; and reading them."""

import gzip
import io
import tarfile

from PIL import Image

from curate.schema import OUTCOMES
from curate.sources.base import Columns
from curate.sources.tar.webdataset import FORMAT, WebDatasetReader, find

BIG = 64 << 20


def member(name, data=b"", kind=tarfile.REGTYPE, format=tarfile.GNU_FORMAT, link="", pax=None, size=None):
    """Return one member as it stands in a tar; size : what the header says, whatever the data are."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax or {}
    info.size = len(data) if size is None else size
    return info.tobuf(format, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)


def tar(*members, end=bytes(1024)):
    """Return a tar of members: (name, data) or bytes as they stand."""
    parts = [one if isinstance(one, bytes) else member(*one) for one in members]
    return b"".join(parts) + end


def pairs(n, size=100):
    """Return the members of `n` samples with an image and a caption."""
    return [
        item
        for row in range(n)
        for item in ((f"{row:05d}.jpg", bytes([row % 256]) * size), (f"{row:05d}.txt", b"caption %d" % row))
    ]


def save(folder, data, name="0.tar"):
    """Write bytes as a shard; gzip where the name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith("gz") else data)
    return find(str(path))[0]


def guessed(shard, **named):
    """Return a reader with the columns found as the read stage finds them."""
    return WebDatasetReader(FORMAT.columns(WebDatasetReader(Columns()).schema(shard), **named))


def read(shard, batch_bytes=BIG, start=0, stop=None, **named):
    """Read rows of a shard as one dict of lists."""
    reader = guessed(shard, **named)
    batches = list(reader.batches(shard, images=True, batch_bytes=batch_bytes, start=start, stop=stop))
    fields = ("key", "image", "image_ref", "caption", "label", "outcome", "reason")
    merged = {field: [value for batch in batches for value in getattr(batch, field)] for field in fields}
    merged["row"] = [int(row) for batch in batches for row in batch.row]
    merged["uid"] = None if "uid" not in named else [uid for batch in batches for uid in batch.uid]
    if not start and stop is None:
        assert merged["row"] == list(range(reader.count(shard)))
    assert set(merged["outcome"]) <= set(OUTCOMES)
    assert all((o == "ok") == (r is None) for o, r in zip(merged["outcome"], merged["reason"], strict=True))
    return merged


def encoded(kind, colour=(9, 8, 7)):
    out = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(out, kind)
    return out.getvalue()


def members(path):
    """Return {name: bytes} of a tar, in order."""
    with tarfile.open(path) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}
