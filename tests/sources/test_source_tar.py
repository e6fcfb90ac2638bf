import gzip
import io
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SourceError
from curate.sources.tar import tar as module
from curate.sources.tar.samples import samples, split_name
from curate.sources.tar.tar import AFTER_END, DAMAGED, FILE, opened
from tests.fixtures.tars import member, pairs, save, tar


def walk(folder, data, name="0.tar"):
    """Return the (name, kind, bytes or None) of the members, and where the tar is cut."""
    with opened(save(folder, data, name)) as found:
        return [
            (one.name, one.kind, found.read(one) if one.kind == FILE else None) for one in found
        ], found.cut


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz"])
def test_members_are_those_that_tarfile_reads(tmp_path, format, name):
    long = "folder/" * 12 + "picture.jpg"
    names = ["a.jpg", "b/ü.txt", long, *(["x" * 200 + ".jpg"] if format != tarfile.USTAR_FORMAT else [])]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as written:
        for place, one in enumerate(names):
            info = tarfile.TarInfo(one)
            info.size = 300 * place
            written.addfile(info, io.BytesIO(bytes([place]) * info.size))
    found, cut = walk(tmp_path, file.getvalue(), name)
    assert found == [(one, FILE, bytes([place]) * 300 * place) for place, one in enumerate(names)]
    assert cut is None


def test_kinds_without_data_are_named_and_passed(tmp_path):
    kinds = {
        tarfile.SYMTYPE: "a symbolic link",
        tarfile.LNKTYPE: "a hard link",
        tarfile.CHRTYPE: "a device",
        tarfile.BLKTYPE: "a device",
        tarfile.FIFOTYPE: "a pipe",
        tarfile.DIRTYPE: "a directory",
    }
    odd = [member("x.jpg", kind=kind, link="/etc/passwd", size=10**9) for kind in kinds]
    old = member("folder/", kind=b"\0")
    unknown = member("y.jpg", b"inside", kind=b"Q")
    found, cut = walk(tmp_path, tar(*odd, old, unknown, ("z.jpg", b"Z")))
    assert [kind for _, kind, _ in found] == [*kinds.values(), "a directory", "a special file", FILE]
    assert found[-1] == ("z.jpg", FILE, b"Z") and cut is None


def test_sparse_files_are_passed_by_their_stored_size(tmp_path):
    header = bytearray(member("s.jpg", kind=tarfile.GNUTYPE_SPARSE, size=512))
    header[482] = 1  # a map in a block of its own follows
    old = sealed(header) + bytes(512) + b"x" * 512
    pax = member("t.jpg", b"y" * 10, format=tarfile.PAX_FORMAT, pax={"GNU.sparse.major": "1"})
    found, cut = walk(tmp_path, tar(old, pax, ("z.jpg", b"Z")))
    assert [kind for _, kind, _ in found] == ["a sparse file", "a sparse file", FILE]
    assert found[-1][2] == b"Z" and cut is None


def sealed(header):
    """Return a header with the sum that its bytes have."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


@pytest.mark.parametrize(
    ("pax", "kind"),
    [
        ({"size": "-1"}, "a member of size '-1'"),
        ({"size": "9" * 30}, "a member of size '99999999999999999999'"),
        ({"path": "n" * 5000}, "a member with a name of 5,000 bytes"),
        ({"comment": "c" * (1 << 20)}, "a member with an extended header of 1,0"),
        ({"path": "ok.jpg", "mtime": "nan", "uid": "x"}, FILE),
    ],
)
def test_odd_pax_headers_cost_their_own_member_only(tmp_path, pax, kind):
    evil = member("a.jpg", b"A", format=tarfile.PAX_FORMAT, pax=pax)
    found, cut = walk(tmp_path, tar(evil, ("z.jpg", b"Z")))
    assert len(found) == 2 and found[0][1].startswith(kind) and len(found[0][0]) <= 100
    assert found[1] == ("z.jpg", FILE, b"Z") and cut is None


@pytest.mark.parametrize(
    "records", [b"12 path=", b"0 a=b\n", b"x path=y\n", b"99 path=y\n", b" 9 a=b\n", b""]
)
def test_pax_records_that_are_none_are_left_out(tmp_path, records):
    header = member("h", records, kind=tarfile.XHDTYPE)
    assert walk(tmp_path, tar(header, ("z.jpg", b"Z"))) == ([("z.jpg", FILE, b"Z")], None)


def test_an_extended_header_takes_no_more_memory_than_allowed(tmp_path):
    evil = member("h", kind=tarfile.XHDTYPE, size=10**12)
    tracemalloc.start()
    found, cut = walk(tmp_path, tar(evil, end=bytes(50 << 20)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [] and "without the end mark" in cut
    assert peak < 120 << 20  # the 50 MB of the test twice, and no more


@pytest.mark.parametrize("size", [10**11, 2**70])
@pytest.mark.parametrize("name", ["0.tar", "0.tgz"])
def test_sizes_beyond_the_file_are_cuts(tmp_path, size, name):
    found, cut = walk(tmp_path, tar(("a.jpg", b"A"), member("b.jpg", b"B", size=size)), name)
    assert found == [("a.jpg", FILE, b"A"), ("b.jpg", FILE, None)]
    assert "ends at byte" in cut


def test_damage_is_one_member_and_the_rest_is_read(tmp_path):
    data = bytearray(tar(("a.jpg", b"A"), ("b.jpg", b"B" * 600), ("c.jpg", b"C")))
    data[1024 + 130] ^= 1  # in the size of b
    found, cut = walk(tmp_path, bytes(data))
    assert found == [("a.jpg", FILE, b"A"), ("", DAMAGED, None), ("c.jpg", FILE, b"C")] and cut is None


def test_joined_tars_and_what_follows_the_end(tmp_path):
    joined = tar(("a.jpg", b"A")) + bytes(8192) + tar(("b.jpg", b"B"))
    assert [one[0] for one in walk(tmp_path, joined)[0]] == ["a.jpg", "b.jpg"]
    found, cut = walk(tmp_path, tar(("a.jpg", b"A")) + b"rubbish" * 100)
    assert [one[1] for one in found] == [FILE, AFTER_END] and cut is None
    packed = gzip.compress(tar(("a.jpg", b"A"))) + b"rubbish"
    (tmp_path / "0.tar").write_bytes(packed)
    found, cut = walk(tmp_path, packed)
    assert [one[1] for one in found] == [FILE, AFTER_END] and cut is None


def test_old_sums_of_signed_bytes_are_right(tmp_path):
    header = bytearray(member("é.jpg", b"A"))
    header[148:156] = b" " * 8
    signed = sum(byte - 256 if byte > 127 else byte for byte in header[:512])
    header[148:156] = b"%06o\0 " % signed
    assert walk(tmp_path, tar(bytes(header)))[0] == [("é.jpg", FILE, b"A")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"PAR1" * 1000, "not a tar file"),
        (b"BZh91AY" + bytes(600), "bzip2"),
        (b"\xfd7zXZ\0" + bytes(600), "xz"),
        (b"short", "before the first sample"),
        (b"\x1f\x8b\x08\0broken", "gzip is broken"),
    ],
)
def test_files_that_are_no_tars_are_named(tmp_path, data, message):
    shard = save(tmp_path, data)
    with pytest.raises(SourceError, match=message) as error:
        list(samples(shard, lambda row, suffix: True))
    assert shard.url in str(error.value)


def test_only_what_is_asked_for_is_read_of_a_plain_tar(tmp_path, monkeypatch):
    shard = save(tmp_path, tar(*pairs(20, size=1 << 20)))
    taken = []
    original = module.Tar._at

    def counted(self, offset, size):
        data = original(self, offset, size)
        taken.append(len(data))
        return data

    monkeypatch.setattr(module.Tar, "_at", counted)
    assert len(list(samples(shard, lambda row, suffix: False))) == 20
    assert sum(taken) == 42 * 512
    taken.clear()
    assert len(list(samples(shard, lambda row, suffix: row == 7))) == 20
    assert sum(taken) == 42 * 512 + (1 << 20) + len(b"caption 7")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a", "jpg")),
        ("d.x/a.B.JPG", ("d.x/a", "b.jpg")),
        ("./a.txt", ("./a", "txt")),
        ("noending", None),
        (".hidden", None),
        ("a.", None),
        ("d.x/a", None),
    ],
)
def test_keys_go_up_to_the_first_dot_of_the_last_part(name, parts):
    assert split_name(name) == parts


GOOD = tar(*pairs(4, size=700), member("x" * 150 + ".jpg", b"long"), member("p.jpg", b"p", pax={"path": "q.jpg"},
           format=tarfile.PAX_FORMAT))  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6),
    stop=st.integers(0, len(GOOD)),
    packed=st.booleans(),
)
def test_whatever_is_in_the_file_only_our_errors_come_out(tmp_path_factory, changes, stop, packed):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    data = bytes(data) if packed else bytes(data[:stop])
    data = gzip.compress(data, 1)[: stop or None] if packed else data
    shard = save(tmp_path_factory.getbasetemp(), data, "fuzz.tar")
    try:
        found = list(samples(shard, lambda row, suffix: True))
    except SourceError as error:
        assert shard.url in str(error)
        return
    assert [one.row for one in found] == list(range(len(found)))
    assert all((one.outcome == "ok") == (one.reason is None) for one in found)
