"""Scores of pixel networks in a run: against the library on decoded images, then what must not change them, the edges."""

import io
import json

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate.embedding.decode import Preprocess, open_image, to_array
from curate.errors import UsageError
from curate.pipeline.runner import run
from curate.recipe.loading import parse_recipe
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.pixels import training as networks
from curate.scores.registry import columns_of
from tests.fixtures.builders import planted, recipe_values
from tests.fixtures.folders import again, files_below, tables

pytestmark = pytest.mark.usefixtures("decoding_here", "one_thread")

TINY = {"seeds": 2, "epochs": 2, "size": 8, "width": 4, "blocks": [1], "batch": 16, "min_class": 3}
N = 48


def names(n=N):
    return [f"s{i:06d}" for i in range(n)]


def pictures(n=N, seed=0):
    """PNG files of several shapes with a brighter channel per class, and labels."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    files = []
    for row in range(n):
        image = rng.integers(0, 120, (9 + row % 5, 12, 3))
        image[:, :, label[row]] += 100
        file = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files, [f"class {code}" for code in label]


def write(folder, files, labels, *, shards=2, order=None):
    """Write images with own vectors and labels; return the glob."""
    folder.mkdir(parents=True, exist_ok=True)
    order = np.arange(len(files)) if order is None else order
    vectors = planted(max(len(files), 1))[: len(files)]
    table = pa.table({
        "id": pa.array(names(len(files))), "image": pa.array(files, pa.binary()),
        "label": pa.array(labels, pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
    }).take(order)  # fmt: skip
    for number, rows in enumerate(np.array_split(np.arange(len(order)), shards)):
        pq.write_table(table.take(rows), folder / f"{number}.parquet")
    return str(folder / "*.parquet")


class Made:
    """A run up to the scores, and what its family says."""

    def __init__(self, folder, files, labels, *, settings=TINY, shards=2, order=None, **changes):
        glob = write(folder / "in", files, labels, shards=shards, order=order)
        self.values = recipe_values(glob, folder / "run", score=[{"pixels": settings}], **changes)
        self.values["source"]["image"] = "image"
        self.path = folder / "run"
        self.again()

    def rescored(self, folder, settings=TINY, **changes):
        """Score the same samples in a copy of the run that has no scores yet."""
        other = object.__new__(Made)
        other.path = again(self.path, folder / "run")
        other.values = recipe_values(
            self.values["source"]["path"], other.path, score=[{"pixels": settings}], **changes
        )
        other.values["source"]["image"] = "image"
        other.again()
        return other

    def again(self):
        run(parse_recipe(self.values), until="score")
        self.folder = self.path / "3_scores/pixels"
        self.table = pl.read_parquet(self.folder / "part-*.parquet").sort("uid")
        self.facts = json.loads((self.folder / "_done.json").read_text())["facts"]
        scores = tables(self.path).items()
        self.bytes = {name: value for name, value in scores if name.startswith("3_scores/pixels/")}


def directly(files, labels, **changes):
    """The same from the library on images decoded here."""
    preprocess = Preprocess((8, 8))
    images = [to_array(open_image(file, max_pixels=10**6), preprocess) for file in files]
    values = {"n_seeds": 2, "epochs": 2, "width": 4, "blocks": (1,), "batch": 16, "min_class": 3} | changes
    return networks.train_pixels(
        [np.stack(images)], names(len(files)), labels, networks.PixelSettings(**values)
    )


def same_columns(table, want):
    """Whether every column of a table is what the library says, exactly; nulls where it has NaN."""
    for name in columns_of("pixels"):
        got = getattr(want, name.removeprefix("pixels_"))
        np.testing.assert_array_equal(table[name].to_numpy(), got, err_msg=name)
        assert not table[name].is_nan().any(), name
    assert table["pixels_n_obs"].to_list() == want.n_obs.tolist()
    predicted = [None if code < 0 else want.classes[code] for code in want.pred_label]
    assert table["pixels_pred_label"].to_list() == predicted


@pytest.fixture(scope="module")
def one_thread():
    """Train on one thread, in runs and directly: of tiny networks on a busy machine a second thread only waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "fixed_threads", lambda n: fixed_threads(1))
        yield


@pytest.fixture(scope="module")
def base(decoding_here, one_thread, tmp_path_factory):
    return Made(tmp_path_factory.mktemp("base"), *pictures())


def test_columns_are_those_of_the_library(base):
    want = directly(*pictures())
    same_columns(base.table, want)
    assert set(base.table["pixels_status"]) == {"ok"} and base.facts["scored"] == N
    assert base.facts["label_source"] == "label" and base.facts["status"] == {"ok": N}
    assert base.facts["accuracy"] == pytest.approx(want.accuracy.tolist(), abs=1e-6)
    assert not (base.path / ".work/pixels").exists(), "the scratch is gone"


def test_all_settings_reach_the_library(tmp_path, base):
    settings = {
        "seeds": 1, "first_seed": 2, "epochs": 2, "score_epochs": [1], "folds": 2, "min_class": 4, "size": 8,
        "width": 3, "blocks": [1, 1], "batch": 20, "rate": 0.02, "momentum": 0.5, "decay": 0.01,
        "augment": False, "grand": False, "device": "cpu",
    }  # fmt: skip
    files, labels = pictures()
    got = base.rescored(tmp_path, settings=settings, seed=5)
    want = directly(
        files, labels, n_seeds=1, first_seed=2, score_epochs=(1,), cross_fit=2, min_class=4, width=3,
        blocks=(1, 1), batch=20, rate=0.02, momentum=0.5, decay=0.01, augment=False, grand=False, seed=5,
    )  # fmt: skip
    same_columns(got.table, want)
    assert got.table["pixels_grand"].is_null().all()


def test_any_split_and_order_give_the_same_scores(tmp_path, base):
    order = np.random.default_rng(1).permutation(N)
    assert Made(tmp_path, *pictures(), shards=5, order=order).table.equals(base.table)


@pytest.mark.long
@pytest.mark.parametrize("changes", [{"workers": 2}, {"memory": "4GB"}])
def test_machine_settings_change_no_byte(tmp_path, base, changes):
    assert base.rescored(tmp_path, **changes).bytes == base.bytes


def test_samples_without_label_class_or_image(tmp_path):
    files, labels = pictures()
    labels[0], labels[1] = None, "once"
    got = Made(tmp_path, [*files[:2], b"no image", *files[3:]], labels)
    assert got.table["pixels_status"].to_list()[:4] == ["no_label", "class_too_small", "no_image", "ok"]
    same_columns(got.table, directly(files, [*labels[:2], None, *labels[3:]]))
    assert got.facts["status"] == {"class_too_small": 1, "no_image": 1, "no_label": 1, "ok": N - 3}
    assert any("1 samples have a vector but no image" in text for text in got.facts["warnings"])


def test_a_run_that_was_stopped_goes_on(tmp_path, base, monkeypatch):
    learn, look, seen = networks._Run._learn, networks._Run._evaluate, []

    def stop(self, model, optimiser, rows, place, epoch):
        if (place, epoch) == (1, 1):
            raise KeyboardInterrupt
        learn(self, model, optimiser, rows, place, epoch)

    monkeypatch.setattr(networks._Run, "_learn", stop)
    with pytest.raises(KeyboardInterrupt):
        base.rescored(tmp_path)
    scratch = tmp_path / "run/.work/pixels"
    assert sorted(path.suffix for path in files_below(scratch) if path.name[0] != ".") == [
        ".json",
        ".npy",
        ".pt",
    ]
    images = (scratch / "images.npy").stat().st_mtime_ns

    def count(self, model, rows, place, epoch):
        seen.append((place, epoch, (scratch / "images.npy").stat().st_mtime_ns))
        look(self, model, rows, place, epoch)

    monkeypatch.setattr(networks._Run, "_learn", learn)
    monkeypatch.setattr(networks._Run, "_evaluate", count)
    values = recipe_values(base.values["source"]["path"], tmp_path / "run", score=[{"pixels": TINY}])
    values["source"]["image"] = "image"
    run(parse_recipe(values), until="score")
    assert seen == [(1, 1, images), (1, 2, images)], "neither decoded nor trained again"
    assert {k: v for k, v in tables(tmp_path / "run").items() if "pixels" in k} == base.bytes


@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one(tmp_path, n):
    files, labels = pictures()
    got = Made(tmp_path, files[:n], labels[:n], shards=1)
    assert got.table["pixels_status"].to_list() == ["class_too_small"] * n
    others = ["pixels_pred_label", "pixels_n_obs", "pixels_status"]
    assert got.table.columns == ["uid", *columns_of("pixels"), *others]
    assert got.table.schema["pixels_el2n"] == pl.Float32


def test_concepts_stand_in_for_labels(tmp_path):
    files, _ = pictures()
    got = Made(tmp_path, files, [None] * N, cluster={"concepts": 2})
    assert got.facts["label_source"] == "cluster" and got.facts["scored"] == N
    assert set(got.table["pixels_pred_label"]) <= {"0", "1"}


@pytest.mark.parametrize("image", ["auto", "none"])
def test_vectors_without_images_are_refused(tmp_path, image):
    files, labels = pictures()
    glob = write(tmp_path / "in", files, labels)
    for path in sorted((tmp_path / "in").iterdir()):
        table = pq.read_table(path)
        pq.write_table(table if image == "none" else table.drop_columns(["image"]), path)
    values = recipe_values(glob, tmp_path / "run", score=[{"pixels": TINY}])
    values["source"]["image"] = image
    with pytest.raises(UsageError, match=r"pixels needs images.*source.image"):
        run(parse_recipe(values), until="score")
    assert not (tmp_path / "run").exists()
