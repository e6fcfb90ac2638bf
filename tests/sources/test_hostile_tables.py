"""Tables that nobody should trust: odd types, damage, secrets, and what captions and names may hold."""

import base64
import io
import pickle
import sys
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow.parquet import encryption

from curate import open_run
from curate.errors import EmbeddingError, SourceError, UsageError
from curate.sources.base import Columns
from curate.sources.columns import guess_columns
from curate.sources.parquet import ParquetReader, find
from tests.fixtures.builders import planted
from tests.fixtures.calls import curate, own
from tests.fixtures.shards import make, read

GOOD, FAILED, USAGE, UNUSABLE = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def picture(seed=0):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
        out, "PNG"
    )
    return out.getvalue()


def vectors(n):
    return pa.array([row.tolist() for row in planted(n).astype(np.float32)], pa.list_(pa.float32()))


# --- columns --------------------------------------------------------------------------------------------------


def test_decimal_and_dictionary_labels(tmp_path):
    decimal = pa.array([Decimal("1.50"), None, Decimal("-3.00")], pa.decimal128(10, 2))
    for column in (decimal, decimal.dictionary_encode(), decimal.cast(pa.decimal256(40, 2))):
        got = read(
            make(tmp_path, {"caption": ["a", "b", "c"], "label": column}), caption="caption", label="label"
        )
        assert got["label"] == ["1.50", None, "-3.00"]
        assert got["outcome"] == ["ok"] * 3


@pytest.mark.parametrize(
    ("role", "column"),
    [
        ("uid", pa.array([Decimal("1.50")])),
        ("caption", pa.array([[[1]]])),
        ("caption", pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))),
        ("image", pa.array([{"bytes": b"a", "path": {"x": 1}}])),
        ("image", pa.array([[b"a"]])),
        ("label", pa.array([{"x": 1}])),
        ("label", pa.array([5], pa.duration("s"))),
    ],
)
def test_columns_that_cannot_be_used_are_named(tmp_path, role, column):
    shard = make(tmp_path, {"x": column, "caption2": ["a"]})
    with pytest.raises(UsageError, match=rf"0\.parquet: column 'x' cannot be used as {role}: its type is "):
        read(shard, **{role: "x"})


def test_columns_that_are_not_asked_for_may_be_anything(tmp_path):
    deep = pa.array([{"a": [{"b": [("k", Decimal(1))]}]}] * 3, pa.struct([("a", pa.list_(pa.struct([("b", pa.map_(pa.string(), pa.decimal128(3)))])))]))  # fmt: skip
    columns = {"embedding": vectors(3), "deep": deep, "words": pa.array(["a", "b", "a"]).dictionary_encode()}
    shard = make(tmp_path, columns)
    assert own(shard.url, "run", keep="1").code == GOOD
    [file] = Path("run/6_filtered").glob("*.parquet")
    assert pq.read_table(file).equals(pq.read_table(shard.url))


@pytest.mark.parametrize("n_columns", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_a_hundred_thousand_columns(tmp_path, n_columns):
    wide = {f"column {place}": pa.array([1], pa.int8()) for place in range(n_columns)}
    shard = make(tmp_path, {**wide, "caption": ["x"], "image": [b"abc"]}, compression="none")
    start = time.monotonic()
    schema = ParquetReader(Columns()).schema(shard)
    columns = guess_columns(schema)
    assert (columns.image, columns.caption) == ("image", "caption")
    assert read(shard, image="image", caption="caption")["image"] == [b"abc"]
    with pytest.raises(
        UsageError, match=rf"no column 'y' .*column 49 \(int8\), and {n_columns - 48:,} more$"
    ) as caught:
        guess_columns(schema, label="y")
    assert len(str(caught.value)) < 2_000
    assert time.monotonic() - start < 30


# --- damage ---------------------------------------------------------------------------------------------------


class Keys(encryption.KmsClient):
    """Wraps keys by writing them down, which is enough for a test."""

    def __init__(self, config):
        super().__init__()

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key, master_key_identifier):
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_encrypted_shards(plaintext_footer):
    config = encryption.EncryptionConfiguration(
        footer_key="foot", column_keys={"col": ["caption"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    table = pa.table({"caption": ["a", "b"], "embedding": vectors(2)})
    with pq.ParquetWriter("a.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    said = own("a.parquet", "run")
    assert said.code == FAILED
    assert "a.parquet: the Parquet file is encrypted, which curate cannot read" in said.error
    with pytest.raises(SourceError, match="encrypted, which curate cannot read"):
        read(find("a.parquet")[0], caption="caption")


def test_names_of_columns_that_are_no_text(tmp_path):
    shard = make(tmp_path, {"caption": ["a"], "zzzzz": [1]})
    path = Path(shard.url)
    data = path.read_bytes().replace(b"zzzzz", b"\xff\xfe\x80\xc3\x28")
    path.write_bytes(data)
    with pytest.raises(SourceError, match="the Parquet file is damaged"):
        read(shard, caption="caption")
        ParquetReader(Columns()).schema(shard).names  # noqa: B018  (reading them is what fails)


class Trap:
    """Leaves a file where it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("pwned"),)


def test_pickles_are_never_opened():
    pq.write_table(pa.table({"id": ["a"]}), "a.parquet")
    np.save("v.npy", np.array([[Trap()]], object), allow_pickle=True)
    said = curate(
        "filter", "a.parquet", "--out", "run", "--vectors", "v.npy", "--keep", "1", "--workers", "1"
    )
    assert said.code == FAILED
    assert "v.npy: must hold float16, float32 or float64, found object" in said.error
    Path("v.npy").write_bytes(pickle.dumps(Trap()))
    said = curate(
        "filter", "a.parquet", "--out", "run", "--vectors", "v.npy", "--keep", "1", "--workers", "1"
    )
    assert said.code == FAILED
    assert "v.npy: not a .npy file" in said.error
    assert not Path("pwned").exists()


def test_headers_of_vector_files_that_claim_much():
    from curate.embedding.user_vectors import open_vectors

    def header(shape):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        Path("v.npy").write_bytes(
            b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 64
        )

    for shape, message in {
        "(10**15, 512)": "not a .npy file", "(1000000000000, 512)": "truncated", "(-5, 4)": "must have the shape",
        "(2, -4)": "must have the shape", "(3,)": "must have the shape", "(2, 2, 2)": "must have the shape",
        "(\0": "not a .npy file", "((((": "not a .npy file",
    }.items():  # fmt: skip
        header(shape)
        with pytest.raises(EmbeddingError, match=message) as caught:
            open_vectors("v.npy")
        assert "\n" not in str(caught.value)


# --- text -----------------------------------------------------------------------------------------------------

CAPTIONS = [
    "x" * 1_000_000, "<script>alert(1)</script>", "a\0b\x1b[31mred\x07", "\u202eright to left", "\ufeff\u200b",
    "'; DROP TABLE samples; --", "{{ 7 * 7 }}{% raw %}", "</script><img src=x onerror=alert(1)>", "=1+1", "ü" * 77_000,
]  # fmt: skip


def test_captions_are_text_and_nothing_more():
    bad = pa.array([*(caption.encode() for caption in CAPTIONS), b"caf\xe9 \xff", b"\xed\xa0\x80"])
    caption = pa.Array.from_buffers(pa.string(), len(bad), bad.buffers())
    images = [picture(seed) for seed in range(len(bad))]
    pq.write_table(pa.table({"image": images, "caption": caption, "label": caption}), "a.parquet")
    said = curate("filter", "a.parquet", "--out", "run", "--model", "tiny", "--keep", "1", "--workers", "1")
    assert said.code == GOOD
    assert "\x1b" not in said.out + said.err
    samples = open_run("run").samples()
    assert samples["outcome"].to_list() == ["ok"] * len(bad)
    assert samples["caption"].str.len_chars().max() == 300
    assert samples["caption_length"][0] == 1_000_000
    assert samples["caption"][-2] == "café ÿ"  # Windows-1252, and said to be
    page = Path("run/7_report/report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    [file] = Path("run/6_filtered").glob("*.parquet")
    kept = pq.read_table(file)["caption"].combine_chunks().cast(pa.binary())
    assert kept.to_pylist() == bad.to_pylist(), "the bytes are those that came"


# --- secrets --------------------------------------------------------------------------------------------------


@pytest.fixture
def opened():
    """The names of all files that this process opens meanwhile."""
    names, on = [], True
    sys.addaudithook(lambda event, found: names.append(str(found[0])) if on and event == "open" else None)
    yield names
    on = False  # a hook cannot be taken away


def test_paths_to_secrets_are_never_opened(tmp_path, opened):
    Path("data").mkdir()
    secret = tmp_path / "hidden-key.png"
    secret.write_bytes(picture(99))
    Path("data/link.png").symlink_to(secret)
    Path("data/good.png").write_bytes(picture(50))
    paths = [
        str(secret),
        "../hidden-key.png",
        f"file://{secret}",
        "link.png",
        "good.png",
        "./../data/../hidden-key.png",
    ]
    beside = [{"bytes": picture(seed), "path": path} for seed, path in enumerate(paths)]
    alone = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": beside + alone}), "data/a.parquet")
    flags = ["--model", "tiny", "--keep", "1", "--workers", "1", "--quiet", "--set", "limits.unusable=90%"]
    opened.clear()
    assert curate("filter", "data/a.parquet", "--out", "run", *flags).code == GOOD
    assert any("good.png" in name for name in opened)
    assert not any("hidden-key" in name or "link.png" in name for name in opened)
    outcomes = open_run("run").samples()["outcome"].to_list()
    assert outcomes[:6] == ["ok"] * 6
    assert outcomes[6:] == ["refused_path"] * 4 + ["ok", "refused_path"]
    kept = pl.concat([pl.read_parquet(file) for file in Path("run/6_filtered").glob("*.parquet")])
    assert picture(99) not in [row["bytes"] for row in kept["image"]]
