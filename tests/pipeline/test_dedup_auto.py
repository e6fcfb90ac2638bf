"""`dedup.epsilon: auto` and `dedup.confirm`: calibrated by the run's own model, the same bytes however it is run."""

import json
import shutil
from io import BytesIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from curate import open_run
from curate.analysis.explain import explain, opened
from curate.deduplication.calibration import epsilon_for
from curate.deduplication.pictures import MIN_CORRELATION, SIDE, best_correlations, grey
from curate.deduplication.similarity import pair_similarities
from curate.embedding import clip
from curate.embedding.alterations import ALTERATIONS
from curate.embedding.decode import Preprocess, open_image, to_array
from curate.errors import BudgetError, RecipeError, UsageError
from curate.linalg import load_unit
from curate.pipeline import runner
from curate.pipeline.stages import dedup, dedup_epsilon
from curate.pipeline.stages.dedup_pictures import Confirming
from curate.recipe.loading import parse_recipe
from tests.pipeline.test_dedup import check_greedy, compared

N, COPIES = 90, 12


def png(pixels):
    packed = BytesIO()
    Image.fromarray(pixels).save(packed, "PNG")
    return packed.getvalue()


def drawn(number, size=48):
    """Return a smooth picture of many colours."""
    rng = np.random.default_rng(number)
    blocks = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
    return np.asarray(blocks.resize((size, size), Image.Resampling.BICUBIC))


def images():
    """Return pictures of which the last are moved, brighter copies of the first."""
    found = [drawn(row) for row in range(N)]
    for place in range(COPIES):
        moved = np.roll(found[place].astype(float) * (0.9 + 0.02 * (place % 5)), place % 2, 0)
        found[N - COPIES + place] = np.clip(moved, 0, 255).astype(np.uint8)
    return found


def write(folder, rows, name):
    every = images()
    folder.mkdir(parents=True, exist_ok=True)
    table = {"id": [f"s{row:03d}" for row in rows], "image": [png(every[row]) for row in rows]}
    pq.write_table(pa.table(table), folder / f"{name}.parquet")


def values(place, name, source="two", **dedup):
    return {
        "run": str(place / name), "source": {"path": f"{place}/{source}/*.parquet", "uid": "id", "image": "image"},
        "embed": {"model": "tiny"}, "cluster": {"concepts": 2}, "score": [], "select": {"method": "all"},
        "dedup": {"epsilon": "auto", "prefer": "random", **dedup}, "workers": 1, "memory": "2GB",
    }  # fmt: skip


def run(place, name, *, refit=False, **changes):
    runner.run(parse_recipe(values(place, name, **changes)), until="select", refit=refit)
    return open_run(place / name)


def copied(place, name):
    """Return a copy of the embedded run under another name."""
    shutil.copytree(place / "first", place / name)
    return name


def facts(one):
    return json.loads((one.folder.duplicates / "_done.json").read_text())["facts"]


def tables(one):
    return {
        path.relative_to(one.folder.path).as_posix(): path.read_bytes()
        for folder in (one.folder.duplicates, one.folder.decisions)
        for path in sorted(folder.rglob("*.parquet"))
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Shards of the pictures, and a first run that calibrates on 40 of them."""
    folder = tmp_path_factory.mktemp("auto")
    write(folder / "two", range(50), "a")
    write(folder / "two", range(50, N), "b")
    write(folder / "one", range(N)[::-1], "all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup_epsilon, "IMAGES", 40)
        run(folder, "first")
        yield folder


@pytest.fixture(scope="module")
def first(place):
    return open_run(place / "first")


def test_epsilon_is_the_quantile_of_the_distances_to_altered_copies(place, first):
    found = facts(first)["calibration"]
    model, every = clip.load("tiny"), images()
    frame, vectors = compared(first)
    chosen = dedup_epsilon._choose(opened(place / "first"))
    assert len(chosen) == found["images"] == 40 and found["copies"] == 120
    distances = []
    for one in chosen:
        original = open_image(png(every[int(one.uid[1:])]), max_pixels=10**6)
        pixels = np.stack([to_array(alter(original), model.preprocess) for alter in ALTERATIONS.values()])
        rows = load_unit(model.encode_images(pixels).astype(np.float16))
        rows = np.concatenate([vectors[[frame["uid"].to_list().index(one.uid)]], rows])
        distances.append(
            1 - pair_similarities(rows, np.zeros(3, np.int64), np.arange(1, 4)).astype(np.float64)
        )
    assert found["epsilon"] == epsilon_for(np.array(distances), 0.9)
    uids, concept = frame["uid"].to_list(), frame["concept"].to_numpy()
    nearest = []
    for one in chosen:
        row = uids.index(one.uid)
        others = np.flatnonzero((concept == concept[row]) & (np.arange(len(uids)) != row))
        nearest.append(1 - float(pair_similarities(vectors, np.full(len(others), row), others).max()))
    near = np.array(nearest) < found["epsilon"]
    assert found["near"] == near.mean()
    assert found["beyond"] == ((np.array(nearest) < 1.5 * found["epsilon"]) & ~near).mean()


@pytest.mark.long
def test_the_same_rows_go_whatever_the_shards_and_workers(place, first):
    other = run(place, "other", source="one")
    assert facts(other) == facts(first)
    same = ["uid", "duplicate_of", "similarity"]
    assert other.duplicates().select(same).sort("uid").equals(first.duplicates().select(same).sort("uid"))
    again = copied(place, "again")
    shutil.rmtree(place / again / "4_duplicates")
    recipe = parse_recipe(values(place, again) | {"workers": 2})
    runner.run(recipe, until="select")
    assert tables(open_run(place / again)) == tables(first)


def confirmed_by_pictures(frame):
    """Return whether two compared rows have small pictures that are copies, from the files themselves."""
    every, small = images(), Preprocess((SIDE, SIDE), resize_mode="squash", interpolation="bilinear")
    shown = [open_image(png(every[int(uid[1:])]), max_pixels=10**6) for uid in frame["uid"]]
    pictures = np.stack([grey(to_array(one, small)) for one in shown])
    return lambda i, j: best_correlations(pictures[i], pictures[j])[0] > MIN_CORRELATION


def test_small_pictures_confirm_what_vectors_propose(place):
    name = copied(place, "confirmed")
    loose = run(place, name, epsilon=0.2, confirm="none")
    by_vectors = loose.duplicates()["duplicate_of"].count()
    found = run(place, name, epsilon=0.2, confirm="thumbnail")
    frame, _ = compared(found)
    check_greedy(found, 0.2, confirmed=confirmed_by_pictures(frame))
    lost = found.duplicates().drop_nulls("duplicate_of")
    numbers = [
        {int(uid[1:]) % (N - COPIES) for uid in pair}
        for pair in lost.select("uid", "duplicate_of").iter_rows()
    ]
    assert 0 < len(lost) <= COPIES < by_vectors and all(len(pair) == 1 for pair in numbers)
    assert facts(found)["confirm"] == "thumbnail"
    said = explain(found.folder.path, lost["uid"][0])["duplicate"]
    assert said["confirmed"] and said["kept_at"] is None


def test_where_the_model_cannot_tell_copies_small_pictures_decide(place, first, caplog):
    name = copied(place, "cannot tell")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.deduplication.calibration.MOST_NEAR", -1.0)

        def stop(*arguments):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as inner, pytest.raises(KeyboardInterrupt):
            inner.setattr(dedup, "_bring_all_back", stop)
            run(place, name, confirm="auto", recall=0.8)
        found = run(place, name, confirm="auto", recall=0.8)
    noted = facts(found)
    assert noted["calibration"]["recall"] == 0.8
    assert noted["epsilon"] == 4 * noted["calibration"]["epsilon"] < 4 * facts(first)["epsilon"]
    assert noted["confirm"] == "thumbnail" and not noted["calibration"]["tells_copies"]
    assert "this model cannot tell copies from what is alike" in caplog.text
    frame, _ = compared(found)
    check_greedy(found, noted["epsilon"], confirmed=confirmed_by_pictures(frame))


@pytest.mark.long
def test_epsilon_stays_while_data_grow_until_a_refit(place):
    write(place / "grown", range(60), "a")
    before = run(place, "growing", source="grown")
    epsilon = facts(before)["calibration"]
    write(place / "grown", range(60, N), "b")
    after = run(place, "growing", source="grown")
    assert facts(after)["calibration"] == epsilon and facts(after)["compared"] == N
    check_greedy(after, epsilon["epsilon"])
    anew = run(place, "growing", source="grown", refit=True)
    assert facts(anew)["calibration"] == facts(run(place, "whole", source="grown"))["calibration"] != epsilon


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed": {"column": "image"}}, "there is no model for vectors of your own; give it a number that fits"),
        ({"cluster": {"on": "text"}}, "captions are compared"),
        ({"dedup": {"epsilon": {"drop": 0.1}, "confirm": "thumbnail"}}, "confirm thumbnail with a number or auto"),
        ({"dedup": {"epsilon": "auto", "recall": 1}}, r"recall must be in \(0, 1\), got 1"),
        ({"dedup": {"confirm": "yes"}}, "confirm must be auto, thumbnail or none, got 'yes'"),
        ({"dedup": {"epsilon": "car"}}, "must be none, auto, a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_refused(place, changes, said):
    with pytest.raises(RecipeError, match=said):
        parse_recipe(values(place, "refused") | changes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"epsilon": "auto"}, "dedup.epsilon auto alters images"), ({"confirm": "thumbnail"}, "dedup.confirm thumb")],
)  # fmt: skip
def test_images_must_be_there(place, settings, said):
    (place / "words").mkdir(exist_ok=True)
    pq.write_table(pa.table({"caption": ["a cat", "a dog"]}), place / "words" / "a.parquet")
    asked = values(place, "words run", source="words", **({"epsilon": 0.1} | settings))
    asked["source"] = {"path": f"{place}/words/*.parquet", "image": None, "caption": "caption"}
    with pytest.raises(UsageError, match=f"{said}.*the source has no images"):
        runner.run(parse_recipe(asked))


def test_images_that_are_gone_are_an_error_that_says_what_to_do(place):
    name = copied(place, "gone")
    recipe = parse_recipe(values(place, name, epsilon=0.2, confirm="thumbnail"))
    with pytest.MonkeyPatch.context() as patch:

        def gone(*arguments):
            raise OSError("no such file")

        patch.setattr("curate.pipeline.stages.row_images.registry.check_unchanged", gone)
        with pytest.raises(
            UsageError, match=r"dedup\.confirm: thumbnail reads images once more, which fails"
        ):
            runner.run(recipe, until="select")


def test_a_picture_that_cannot_be_had_confirms_nothing():
    pictures = pl.Series([grey(drawn(0, SIDE)).tobytes(), None, grey(drawn(0, SIDE)).tobytes()])
    confirm = Confirming(pictures)
    assert confirm(2, np.array([0, 1])).tolist() == [True, False]
    assert confirm(1, np.array([0])).tolist() == [False]


def test_method_auto_takes_near_duplicates_out_and_names_a_recipe_that_keeps_the_same(place, first):
    def selected(name, **changes):
        asked = values(place, copied(place, name)) | changes
        runner.run(parse_recipe(asked), until="select")
        return open_run(place / name)

    given = {"dedup": {"prefer": "random"}, "select": {"method": "auto", "count": 40}}
    found = selected("method_auto", **given)
    epsilon = facts(found)["epsilon"]
    chosen = found.summary()["auto"]
    assert chosen["why"][-1] == (
        f"auto: {facts(found)['dropped']} near-duplicates went before, at epsilon {epsilon:.6g}"
    )
    assert facts(found)["dropped"] > 0
    named = yaml.safe_load(chosen["recipe"])
    assert named["dedup"] == {"epsilon": "auto", "prefer": "random"}
    again = selected("method_named", **named)
    kept = [set(one.kept()["uid"].to_list()) for one in (found, again)]
    assert kept[0] == kept[1] and len(kept[0]) == 40


def test_method_auto_keeps_what_is_there_where_near_duplicates_leave_less_than_asked_for(
    place, first, caplog
):
    def selected(name, **select):
        asked = values(place, copied(place, name)) | {"dedup": {"prefer": "random"}}
        asked["select"] = {"method": "auto", "count": N - 1} | select
        runner.run(parse_recipe(asked), until="select")
        return open_run(place / name)

    found = selected("method_auto_fewer")
    there = found.decisions().filter(pl.col("occurrence") == 0)
    assert facts(found)["dropped"] > 1
    assert set(there.filter(~pl.col("keep"))["reason"]) == {"near_duplicate"}
    assert len(found.kept()) == len(there) - facts(found)["dropped"] < N - 1
    assert f"all {len(found.kept())} eligible rows are kept (" in caplog.text
    with pytest.raises(BudgetError, match="near-duplicates"):
        selected("method_auto_exactly", at_most=False)
