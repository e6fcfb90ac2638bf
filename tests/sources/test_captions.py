"""One rule for several captions, for encodings and for lists of labels, in every format."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.errors import RecipeError
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.sources import registry
from curate.sources.base import Columns
from curate.sources.captions import opened, taken
from curate.sources.columns import AUTO, guess_columns
from curate.sources.settings import Captions, Source
from curate.sources.text.encoding import decoded
from tests.fixtures.builders import planted
from tests.fixtures.calls import own
from tests.fixtures.tars import save, tar

TEXTS = ["a dog", "a big brown dog", "a cat"]
WANTED = {"first": "a dog", "longest": "a big brown dog", "join": "a dog a big brown dog a cat"}


def read(path, form="auto", take="first", of=AUTO, **roles):
    """Return the rows of all shards of a source as (captions, labels, notes)."""
    form = registry.format_of(registry.detect([str(path)]) if form == "auto" else form)
    captions, labels, notes = [], [], []
    for shard in form.find(str(path)):
        schema = form.reader(Columns(), False).schema(shard)
        columns = form.columns(schema, caption=of, **({"image": AUTO, "label": AUTO} | roles))
        columns = Columns(**{**vars(columns), "caption_take": take})
        for rows in form.reader(columns, False).batches(shard, images=False, batch_bytes=1 << 20):
            captions += rows.caption
            labels += rows.label
            notes += rows.notes or [()] * len(rows)
    return captions, labels, notes


def several(folder, form):
    """Write one sample with three captions, as a list in each format has it."""
    (folder / "a.jpg").write_bytes(b"A")
    if form == "parquet":
        pq.write_table(pa.table({"image": ["a.jpg"], "caption": [TEXTS]}), folder / "x.parquet")
        return folder / "x.parquet"
    if form == "objects":
        rows = [[{"raw": text, "id": number} for number, text in enumerate(TEXTS)]]
        pq.write_table(pa.table({"image": ["a.jpg"], "caption": rows}), folder / "x.parquet")
        return folder / "x.parquet"
    if form == "text of a list":
        pq.write_table(pa.table({"image": ["a.jpg"], "caption": [json.dumps(TEXTS)]}), folder / "x.parquet")
        return folder / "x.parquet"
    if form == "jsonl":
        (folder / "x.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": TEXTS}) + "\n")
        return folder / "x.jsonl"
    if form in ("csv", "csv of Python"):
        text = (json.dumps if form == "csv" else repr)(TEXTS).replace('"', '""')
        (folder / "x.csv").write_text(f'image,caption\na.jpg,"{text}"\n')
        return folder / "x.csv"
    if form == "tar":
        return save(folder, tar(("a.jpg", b"A"), ("a.json", json.dumps({"caption": TEXTS}).encode()))).url
    if form == "tar of text":
        return save(folder, tar(("a.jpg", b"A"), ("a.txt", json.dumps(TEXTS).encode()))).url
    if form == "side file":
        (folder / "a.txt").write_text(json.dumps(TEXTS))
        return folder
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "caption": TEXTS}) + "\n")
    return folder


FORMS = [
    "parquet", "objects", "text of a list", "jsonl", "csv", "csv of Python", "tar", "tar of text", "side file",
    "metadata",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_several_captions_in_every_format(tmp_path, form):
    path = several(tmp_path, form)
    for take, wanted in WANTED.items():
        assert read(path, take=take)[::2] == ([wanted], [("several captions",)]), take


def test_several_columns(tmp_path):
    pq.write_table(
        pa.table({"a": ["one", None, " "], "b": [["two", "three three"], [], ["x"]]}), tmp_path / "x.parquet"
    )
    path = tmp_path / "x.parquet"
    assert read(path, image=None, of=("a", "b"))[0] == ["one", None, "x"]
    assert read(path, image=None, of=("b", "a"))[0] == ["two", None, "x"]
    assert read(path, image=None, of=("a", "b"), take="longest")[0] == ["three three", None, "x"]
    assert read(path, image=None, of=("a", "b"), take="join")[0] == ["one two three three", None, "x"]
    shard = save(tmp_path, tar(("a.jpg", b"A"), ("a.txt", b"one"), ("a.json", b'{"alt": "two two"}')))
    assert read(shard.url, of=("json.alt", "txt"))[0] == ["two two"]
    assert read(shard.url, of=("txt", "json.alt"), take="longest")[0] == ["two two"]
    assert read(shard.url, of=("txt", "json.alt"), take="join")[0] == ["one two two"]
    for name, data in {
        "i/a.jpg": "A",
        "i/a.txt": "side",
        "i/metadata.csv": "file_name,title\na.jpg,longer title\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(data)
    assert read(tmp_path / "i", of=("caption", "title"))[0] == ["side"]
    assert read(tmp_path / "i", of=("title", "caption"))[0] == ["longer title"]
    assert read(tmp_path / "i", of=("caption", "title"), take="join")[0] == ["side longer title"]


def test_what_is_no_list_of_captions_stays_as_it_is():
    for text in ("[sic] a dog", "[1, 2]", '["a", 1]', "{a dog}", "[]", "{}", '["a"', "['a' 'b']", "[photo]"):
        assert opened(text) is None and taken([text], "longest") == (text, ())
    assert taken(['["one"]'], "first") == ("one", ()) and taken([["", None, "x"]], "first") == ("x", ())
    assert taken(["[" * 100_000], "first") == ("[" * 100_000, ())
    assert taken(['["\\ud800", "b"]'], "first")[0] == "?"


def test_objects_are_captions_and_images_are_not():
    struct = pa.struct([("en", pa.string()), ("de", pa.string())])
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("caption", struct)])
    assert guess_columns(schema).caption == "caption"
    assert guess_columns(pa.schema([("image", image), ("caption", pa.list_(pa.int64()))])).caption is None
    plain = pa.schema([("image", image), ("text", pa.string()), ("caption", struct)])
    assert guess_columns(plain).caption == "text"  # as before there were objects


def test_the_setting(tmp_path):
    source = Source.model_validate({"path": "x", "caption": {"take": "longest", "of": "a"}})
    assert source.caption == Captions(take="longest", of=("a",))
    assert Source.model_validate({"path": "x", "caption": "none"}).caption is None
    assert Source.model_validate({"path": "x"}).model_dump(mode="json")["caption"] == "auto"
    values = {"run": "r", "select": {"method": "random", "keep": 0.5}}
    for wrong, said in (
        ({"take": "frist"}, "source.caption.take must be 'first', 'longest' or 'join'"),
        ({"tke": "first"}, "source.caption.tke is not a setting"),
        ({"of": [""]}, "source.caption.of.0 must be some text"),
    ):
        with pytest.raises(RecipeError, match=said):
            parse_recipe({**values, "source": {"path": "x", "caption": wrong}})


def test_columns_that_use_no_rule_keep_their_fingerprint():
    old = {"image", "caption", "label", "uid", "vector", "vector_dim", "text_vector"}
    assert set(Columns(caption="a").identity()) == set(Columns(caption_more=[]).identity()) == old
    assert Columns(caption_take="join").identity()["caption_take"] == "join"
    assert Columns(caption_more=("b",)).identity()["caption_more"] == ("b",)


ENCODED = {
    "marked": ("\ufeffcafé".encode(), "café", None),
    "plain": ("café".encode(), "café", None),
    "Windows": ("café “x”".encode("cp1252"), "café “x”", "Windows-1252"),
    "Latin": (b"\x81\xe9", "\x81é", "Latin-1"),
    "UTF-16": ("café".encode("utf-16"), "café", "UTF-16"),
    "damaged": ("café ".encode() + b"\xff", "café \ufffd", "damaged UTF-8"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_encodings(tmp_path, name):
    data, text, encoding = ENCODED[name]
    notes = [()] if encoding is None else [(f"encoding {encoding}",)]
    assert decoded(data) == (text, encoding)
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.jpg").write_bytes(b"A")
    (tmp_path / "f/a.txt").write_bytes(data)
    assert read(tmp_path / "f")[::2] == ([text], notes)
    assert read(save(tmp_path, tar(("a.jpg", b"A"), ("a.txt", data))).url)[::2] == ([text], notes)
    pq.write_table(
        pa.table({"image": ["a"], "caption": pa.array([data], pa.binary())}), tmp_path / "x.parquet"
    )
    assert read(tmp_path / "x.parquet")[::2] == ([text], notes)
    if name not in ("marked", "UTF-16"):  # marks stand at the beginning of a file
        line = b'{"image": "a.jpg", "caption": "' + data.replace(b'"', b'\\"') + b'"}\n'
        (tmp_path / "x.jsonl").write_bytes(line)
        assert read(tmp_path / "x.jsonl")[::2] == ([text], notes)
        (tmp_path / "x.csv").write_bytes(b"image,caption\na.jpg," + data + b"\n")
        assert read(tmp_path / "x.csv")[::2] == ([text], notes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "f/metadata.csv"])
def test_whole_files_in_another_encoding(tmp_path, encoding, name):
    (tmp_path / "f").mkdir()
    (tmp_path / "f/a.jpg").write_bytes(b"A")
    key = "file_name" if name.startswith("f/") else "image"
    rows = [("a.jpg", "café \u2028 x"), ("b.jpg", "größer")]
    text = f"{key},caption\n" + "".join(f"{a},{b}\n" for a, b in rows)
    if name.endswith("jsonl"):
        text = "".join(json.dumps({key: a, "caption": b}, ensure_ascii=False) + "\n" for a, b in rows)
    (tmp_path / name).write_bytes(text.encode(encoding))
    captions, _, notes = read(tmp_path / ("f" if name.startswith("f/") else name))
    assert captions == [b for _, b in rows]
    known = {"utf-16": "UTF-16", "utf-32": "UTF-32"}
    assert notes == [(f"encoding {known[encoding]}",) if encoding in known else ()] * 2


def test_marks_where_files_were_joined(tmp_path):
    line = json.dumps({"image": "a.jpg", "caption": "x"}).encode()
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf" + line + b"\n")
    assert read(tmp_path / "x.jsonl")[0] == ["x", "x"]


def test_labels(tmp_path):
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "n": {"dtype": "int64", "_type": "Value"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table({"image": ["a", "b", "c"], "label": [0, -1, 1], "n": [0, -1, 1]})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[1] == ["0", None, "1"]
    assert read(tmp_path / "x.parquet", label="n")[1] == ["0", "-1", "1"]  # only a ClassLabel says so
    pq.write_table(
        pa.table({"image": ["a", "b", "c"], "tags": [["x", "y"], [], ["z"]]}), tmp_path / "l.parquet"
    )
    assert read(tmp_path / "l.parquet", label="tags")[1:] == (["x", None, "z"], [("label list",), (), ()])
    rows = [{"image": "a", "label": ["x", "y"]}, {"image": "b", "label": [3]}, {"image": "c", "label": "[x"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read(tmp_path / "x.jsonl")[1:] == (["x", "3", "[x"], [("label list",), (), ()])
    shard = save(tmp_path, tar(("a.jpg", b"A"), ("a.json", b'{"label": ["x", "y"]}')))
    assert read(shard.url)[1:] == (["x"], [("label list",)])


def test_a_run_says_what_it_took(tmp_path):
    """One line per kind, kept for a run that goes on; exports hold the caption that was taken."""
    captions = [["one", f"row {i}"] if i % 2 else [f"row {i}"] for i in range(20)]
    folder = tmp_path / "in"
    folder.mkdir()
    table = pa.table(
        {
            "embedding": planted(20).astype("f4").tolist(),
            "caption": captions,
            "id": [f"s{i}" for i in range(20)],
        }
    )
    pq.write_table(table, folder / "a.parquet")
    said = own(folder, tmp_path / "run", "--set", "source.caption={take: longest}", keep="1.0")
    assert said.code == 0, said.err
    lines = [line for line in said.err.splitlines() if "several captions" in line]
    assert len(lines) == 1 and "10 rows with several captions" in lines[0] and "the longest" in lines[0]
    run = open_run(tmp_path / "run")
    assert run.samples().sort("row")["caption"].to_list()[:3] == ["row 0", "row 1", "row 2"]
