"""The Python API does what the command line does: the same decisions, from paths and from what is in memory."""

import io
import shutil
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import curate
from curate.api.data import write_shards as write_source
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate as command

pytestmark = pytest.mark.usefixtures("no_flush")
N = 120
IDS = [f"s{i:06d}" for i in range(N)]
LABELS = [("left", "right")[i % 2] for i in range(N)]
HEADS = {"heads": {"kind": "linear", "seeds": 2, "epochs": 2, "folds": 2}}
SMALL = {"settings": {"cluster.concepts": 6, "memory": "2GB"}, "workers": 1, "keep": 0.3, "dedup": 0.01}


@pytest.fixture(scope="module")
def vectors():
    return planted(N, near=10)


@pytest.fixture(scope="module")
def shards(vectors, tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("in"), vectors, extra={"label": LABELS})


@pytest.fixture(scope="module")
def by_command(shards, tmp_path_factory):
    """The digest of the decisions of the command line on the same rows."""
    out = tmp_path_factory.mktemp("command") / "run"
    flags = ["--vectors", "embedding", "--workers", "1", "--keep", "0.3", "--epsilon", "0.01"]
    for name in ("cluster.concepts=6", "memory=2GB", "source.uid=id", "source.label=label"):
        flags += ["--set", name]
    assert command("filter", shards, "--out", out, *flags).code == 0
    return command("verify", out, "--digest").out.strip()


@pytest.fixture(scope="module")
def table(vectors):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.table({"embedding": lists, "id": IDS, "label": LABELS})


COLUMNS = {"vectors": "embedding", "uids": "id", "labels": "label"}


def polars_frame(table, shards):
    return pl.DataFrame(table.set_column(0, "embedding", table["embedding"].cast(pa.list_(pa.float32(), 16))))


def pandas_frame(table, shards):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    return pandas.DataFrame({name: table[name].to_pylist() for name in table.column_names})


def hugging_face(table, shards):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    return datasets.Dataset.from_dict({name: table[name].to_pylist() for name in table.column_names})


FORMS = {
    "glob": lambda table, shards: shards,
    "arrow": lambda table, shards: table,
    "polars": polars_frame,
    "polars lazy": lambda table, shards: polars_frame(table, shards).lazy(),
    "pandas": pandas_frame,
    "hugging face": hugging_face,
}


#: What goes through Arrow lazily, and what has types of its own; the other forms in the long tests.
USUAL_FORMS = ("polars lazy", "hugging face")


@pytest.mark.parametrize(
    "form", [one if one in USUAL_FORMS else pytest.param(one, marks=pytest.mark.long) for one in FORMS]
)
def test_the_same_rows_in_any_form_are_decided_as_by_the_command(form, table, shards, by_command, tmp_path):
    data = FORMS[form](table, shards)
    found = curate.filter(data, out=tmp_path / "run", **COLUMNS, **SMALL)
    assert found.digest() == by_command


def test_arrays_are_decided_as_by_the_command_and_only_once(vectors, by_command, tmp_path):
    given = {"uids": IDS, "labels": np.array(LABELS)}
    found = curate.filter(vectors, out=tmp_path / "run", **given, **SMALL)
    assert found.digest() == by_command
    assert found.kept().height == 36
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "logs" not in path.parts}
    again = curate.filter(vectors, out=tmp_path / "run", **given, **SMALL)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if "logs" not in path.parts}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert not any(name.endswith((".parquet", ".arrow", ".html", "manifest.json")) for name in changed)
    assert again.verify()["changed"] == []


def test_data_that_has_grown_is_read_on(vectors, tmp_path):
    out = tmp_path / "run"
    curate.filter(vectors[:60], out=out, uids=IDS[:60], **SMALL)
    found = curate.filter(vectors, out=out, uids=IDS, **SMALL)
    assert found.samples().height == N
    assert len(list((tmp_path / "run-source").glob("*.parquet"))) == 1


def test_shards_are_named_by_place_and_content_and_old_ones_go(tmp_path, monkeypatch):
    monkeypatch.setattr("curate.api.data.SHARD_BYTES", 400)
    table = pa.table({"a": list(range(100))})
    first = write_source(table, tmp_path)
    assert len(first) == 2
    assert pq.read_table(first)["a"].to_pylist() == list(range(100))
    (tmp_path / "mine.parquet").write_bytes(b"")
    second = write_source(table.slice(0, 50), tmp_path)
    assert second == first[:1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [second[0].name, "mine.parquet"]


def picture(number):
    colour = tuple(int(c) for c in np.random.default_rng(number).integers(0, 256, 3))
    return Image.new("RGB", (24, 24), colour)


def packed(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "wanted",
    [
        ("bytes", "hugging face"),
        pytest.param(("bytes", "objects", "pandas", "hugging face"), marks=pytest.mark.long),
    ],
    ids=["two", "all"],
)
def test_pictures_in_any_form_are_the_same_samples(tmp_path, decoding_here, wanted):
    pictures = [picture(i) for i in range(12)]
    names = [f"p{i}" for i in range(12)]
    (tmp_path / "photos").mkdir()
    for name, image in zip(names, pictures, strict=True):
        image.save(tmp_path / "photos" / f"{name}.png")
    forms = {
        "bytes": pl.DataFrame({"image": [packed(one) for one in pictures], "id": names}),
        "objects": pl.DataFrame({"image": pl.Series(pictures, dtype=pl.Object), "id": names}),
    }
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    forms["pandas"] = pandas.DataFrame({"image": pictures, "id": names})
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features({"image": datasets.Image(), "id": datasets.Value("string")})
    forms["hugging face"] = datasets.Dataset.from_dict({"image": pictures, "id": names}, features=features)
    small = {"model": "tiny", "workers": 1, "keep": 0.5, "settings": {"cluster.concepts": 2}}
    digests = {
        form: curate.filter(data, out=tmp_path / form, uids="id", **small).digest()
        for form, data in forms.items()
        if form in wanted
    }
    assert len(digests) == len(wanted)
    assert len(set(digests.values())) == 1, digests
    listed = curate.filter(pictures, out=tmp_path / "list", **small)
    assert listed.kept().height == 6
    folder = curate.filter(tmp_path / "photos", out=tmp_path / "folder", **small)
    assert folder.kept().height == 6


def test_a_recipe_is_run_as_a_file_and_a_mapping(shards, tmp_path):
    values = recipe_values(shards, tmp_path / "a")
    first = curate.run(values)
    assert isinstance(first, curate.Run)
    (tmp_path / "recipe.yaml").write_text(parse_recipe(values).to_yaml())
    second = curate.run(tmp_path / "recipe.yaml", out=tmp_path / "b")
    assert first.digest() == second.digest()
    assert curate.run(values, settings={"select.keep": 0.5}).kept().height == 60
    until = curate.run(values, out=tmp_path / "e", until="embed")
    assert repr(until) == f"Run('{tmp_path / 'e'}': nothing is decided yet)"


@pytest.mark.long  # four whole runs; the shorter one is above
def test_a_recipe_is_run_as_a_file_a_mapping_and_a_recipe(shards, tmp_path):
    values = recipe_values(shards, tmp_path / "a")
    first = curate.run(values)
    (tmp_path / "recipe.yaml").write_text(parse_recipe(values).to_yaml())
    second = curate.run(tmp_path / "recipe.yaml", out=tmp_path / "b")
    third = curate.run(parse_recipe(values), out=tmp_path / "c", settings={"select.keep": 0.3})
    fourth = curate.filter(tmp_path / "recipe.yaml", out=tmp_path / "d", keep=0.3)
    assert len({one.digest() for one in (first, second, third, fourth)}) == 1


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    return curate.filter(shards, out=out, **COLUMNS, **SMALL, score=HEADS, where="clip_score IS NULL")


def test_a_run_says_its_counts_in_one_line(run):
    assert repr(run) == f"Run('{run.path}': 120 rows, 36 kept, 84 dropped, 0 unusable)"
    assert "120" in run._repr_html_()


def test_the_frames_of_a_run(run):
    assert run.samples().height == run.decisions().height == run.scores().height == N
    assert run.kept()["keep"].all()
    assert run.kept().height == 36
    assert run.concepts()["kept"].sum() == 36
    assert (run.duplicates()["duplicate_of"].is_not_null()).sum() >= 10
    for name in ("samples", "scores", "decisions", "kept", "concepts", "duplicates"):
        lazy = getattr(run, name)(lazy=True)
        assert isinstance(lazy, pl.LazyFrame)
        assert lazy.collect().equals(getattr(run, name)()), name


def test_questions_to_a_run(run):
    assert run.summary()["counts"]["kept"] == 36
    assert run.explain(IDS[3])["uid"] == IDS[3]
    assert [entry["keep"] for entry in run.plan(keep=[0.1, 0.2])["keep"]] == [0.1, 0.2]
    assert run.sql("select count(*) n from decisions where keep")["n"].item() == 36
    assert run.sql("select uid from samples").height == N
    assert run.manifest()["counts"]["rows"] == N
    assert run.verify()["rows"] == N
    assert run.digest() == command("verify", run.path, "--digest").out.strip()
    assert run.retry().worked == ()


def test_search_takes_vectors_from_memory(run, vectors):
    by_uid = run.search(uid=IDS[3], top=2)
    by_vector = run.search(vector=vectors[3], top=3)
    assert by_vector["uid"].to_list() == [IDS[3], *by_uid["uid"]]
    with pytest.raises(curate.CurateError, match="vectors of its own"):
        run.search("a red stop sign")


def test_search_takes_words_and_pictures(tmp_path, decoding_here):
    pictures = [picture(i) for i in range(8)]
    found = curate.filter(pictures, out=tmp_path / "run", model="tiny", keep=1.0, workers=1)
    assert found.search("a red square", top=3, threshold=0.0).height == 3
    assert found.search("asdf qwer").height == 0
    nearest = found.search(image=pictures[5], top=1)
    assert nearest["similarity"].item() == pytest.approx(1, abs=1e-3)
    assert nearest["row"].item() == 5


def test_pages_and_exports(run, tmp_path):
    assert run.report().name == "report.html"
    assert run.report(concept=1).is_file()
    assert run.export("txt", tmp_path / "kept.txt").rows == 36
    done = run.export("parquet", tmp_path / "shards", columns=["uid", "weight"])
    assert pl.read_parquet(tmp_path / "shards" / "*.parquet")["uid"].len() == done.rows == 36


def test_other_scores_and_decisions(shards, tmp_path):
    first = curate.filter(shards, out=tmp_path / "a", **COLUMNS, **SMALL)
    shutil.copytree(first.path, tmp_path / "b")  # only the selection is another
    other = curate.filter(shards, out=tmp_path / "b", **COLUMNS, **{**SMALL, "keep": 0.5})
    assert first.diff(other)["kept"] == {"a": 36, "b": 60}
    assert first.diff(other.path)["kept"] == {"a": 36, "b": 60}
    assert first.score(HEADS) is first
    assert "el2n" in first.scores().columns
    own = tmp_path / "own.parquet"
    pl.DataFrame({"id": IDS, "mine": np.linspace(0, 1, N)}).write_parquet(own)
    first.score(file=own, on="id", higher_is="harder")
    hardest = first.select("hardest", by="mine", keep=0.1).kept()
    assert hardest.height == 12
    assert "select" in first.verify()["changed"]
    first.write()
    assert first.verify()["changed"] == []
    first.select(
        "stratified", by="el2n", keep=0.2, beta=0.1, where="mine < 0.9", weight="inverse", write=True
    )
    assert first.kept().height == 24
    assert first.scores().join(first.kept(), on="uid")["mine"].max() < 0.9


WRONG = [
    (lambda: curate.run(["a.yaml"]), "curate.run takes a recipe file, a mapping or a Recipe, got list"),
    (lambda: curate.open_run(3), "curate.open_run takes a run folder or its URL, got int"),
    (lambda: curate.filter(3, out="x", keep=1), "curate.filter takes paths, vectors .*, got int"),
    (lambda: curate.filter([], out="x", keep=1), "got an empty list"),
    (lambda: curate.filter(np.zeros(3), out="x", keep=1), r"shape \(n, d\), got float64 of shape \(3,\)"),
    (
        lambda: curate.filter(np.ones((2, 3)), out="x", uids=["a"]),
        "uids must be as many as vectors, 2, got 1",
    ),
    (lambda: curate.filter(np.ones((2, 3)), out="x", uids="a"), "uids of vectors must be a list"),
    (
        lambda: curate.filter("*.parquet", out="x", uids=["a"]),
        "uids must name a column of this data, got list",
    ),
    (lambda: curate.filter(np.ones((2, 3)), out="s3://b/x"), "data in memory is written beside the run"),
    (lambda: curate.filter("*.parquet", out="x"), "select needs keep"),
    (lambda: curate.filter("*.parquet", out="x", keep=1.5), "select.keep"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_is_wrong_is_said(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(curate.CurateError, match=message):
        call()
    assert not list(tmp_path.glob("x*/*.parquet"))


def test_scores_of_a_file_need_the_file(run):
    with pytest.raises(curate.CurateError, match="score takes higher_is, on with file only"):
        run.score(on="id", higher_is="harder")


def test_progress_is_shown_to_a_function(shards, tmp_path):
    seen = []
    curate.filter(
        shards, out=tmp_path / "run", **COLUMNS, **SMALL, progress=lambda *report: seen.append(report)
    )
    assert {"read", "embed", "cluster", "select", "write"} <= {stage for stage, *_ in seen}


def test_the_names_of_the_package():
    assert dir(curate) == sorted(curate.__all__)
    assert {"filter", "run", "open_run", "cluster", "deduplicate", "Run"} <= set(dir(curate))
    for name in curate.__all__:
        assert getattr(curate, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'fliter'"):
        _ = curate.fliter


def test_importing_the_verbs_needs_no_torch():
    code = "import sys, curate; curate.Run, curate.open_run; assert not {'torch', 'faiss', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_clusters_and_duplicates_in_memory(vectors):
    groups = curate.cluster(vectors, 6)
    assert groups.sizes.sum() == N
    assert (np.diff(groups.sizes) <= 0).all()
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_array_equal((unit @ groups.centroids.T).argmax(axis=1), groups.concept)
    similar = np.tril(unit @ unit.T, -1)
    for epsilon in (0.001, 0.05):
        keep = np.ones(N, bool)
        for row in range(N):
            keep[row] = not (similar[row][keep & (np.arange(N) < row)] > 1 - epsilon).any()
        found = curate.deduplicate(vectors, 0.01, uids=IDS).rethreshold(epsilon)
        np.testing.assert_array_equal(found.keep, keep)
        assert found.selected.tolist() == [uid for uid, stays in zip(IDS, keep, strict=True) if stays]
        assert len(found.selected) + len(found.filtered) == N
    np.testing.assert_allclose(
        found.similarity[1:],
        similar[1:].max(axis=1, where=np.tri(N, k=-1, dtype=bool)[1:], initial=-1),
        atol=1e-6,
    )


def test_duplicates_within_groups(vectors):
    apart = np.arange(N)
    assert len(curate.deduplicate(vectors, 0.05, groups=apart).filtered) == 0
    groups = curate.cluster(vectors, 1)
    together = curate.deduplicate(vectors, 0.05, groups=groups)
    np.testing.assert_array_equal(together.keep, curate.deduplicate(vectors, 0.05).keep)
    order = np.arange(N) % 2
    found = curate.deduplicate(vectors, 0.05, groups=order)
    dropped = np.flatnonzero(~found.keep)
    assert (order[found.duplicate_of[dropped]] == order[dropped]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: curate.cluster(np.ones(3), 2), r"numbers of shape \(n, d\)"),
        (lambda: curate.cluster(np.zeros((2, 3)), 2), "row 0 is not"),
        (lambda: curate.cluster(np.ones((2, 3)), 0), "k must be at least 1, got 0"),
        (lambda: curate.deduplicate(np.ones((2, 3)), 2.0), "epsilon must be in"),
        (lambda: curate.deduplicate(np.ones((2, 3)), uids=["a"]), "uids must be as many as vectors"),
        (lambda: curate.deduplicate(np.ones((2, 3)), groups=["a", "b"]), "groups must be"),
    ],
)
def test_wrong_vectors_are_said(call, message):
    with pytest.raises(curate.CurateError, match=message):
        call()
