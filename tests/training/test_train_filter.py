"""Training filters on vectors that are there: what is written, what it scores, resuming, what is refused."""

import json
import math

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import curate
from curate.errors import RecipeError, RunError, UsageError
from curate.io import lock
from curate.runs.run import open_run
from curate.scores.dfn.formula import adapted, pair_scores
from curate.scores.dfn.stored import open_filter
from curate.training.filter_recipe import load_filter_recipe, parse_filter_recipe
from curate.training.train import train_recipe

DIM = 12
FEW = {"epochs": 4, "batch": 32, "background": 20, "validation": 0.1, "memory": "2GB"}


def lists(rows):
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), rows.shape[1])


def write_pairs(path, n, *, seed=0, first=0, turn=None):
    """Pairs whose captions are their images turned by one rotation for all: what an adapter can learn, and a cosine cannot see."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((n, DIM))
    turn = np.linalg.qr(np.random.default_rng(9).standard_normal((DIM, DIM)))[0] if turn is None else turn
    text = image @ turn + 0.3 * rng.standard_normal((n, DIM))
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "id": [f"s{i:05d}" for i in range(first, first + n)], "img": lists(image), "txt": lists(text),
        "caption": [f"caption {i}" for i in range(first, first + n)], "label": [f"c{i % 3}" for i in range(n)],
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)
    return str(path)


EMBED = {"column": "img", "text_column": "txt"}


def recipe(path, out, **changes):
    values = {"out": str(out), "set": {"source": {"path": path, "uid": "id"}}, "embed": EMBED, **FEW}
    return parse_filter_recipe(values | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with pairs to train on, a pool, a run of it and an adapter."""
    folder = tmp_path_factory.mktemp("filters")
    good = write_pairs(folder / "good/train-0.parquet", 200)
    pool = write_pairs(folder / "pool/train-0.parquet", 60, seed=1, first=1000)
    train_recipe(recipe(good, folder / "adapter", epochs=15, rate=2e-2, decay=0.0))
    train_recipe(recipe(good, folder / "head", kind="head"))
    score = [
        {"dfn": {"path": str(folder / "adapter")}},
        {"dfn": {"path": str(folder / "head"), "name": "prior"}},
        "clip_score",
    ]
    curate.run(
        {
            "run": str(folder / "run"), "source": {"path": pool, "uid": "id"}, "embed": EMBED, "cluster": {"concepts": 3},
            "score": score, "select": {"method": "easiest", "by": "dfn_score", "keep": 0.5}, "memory": "2GB", "workers": 1,
        },
        progress=False,
    )  # fmt: skip
    return folder


def test_a_filter_learns_what_a_cosine_does_not_see(made):
    scores = open_run(made / "run").scores().sort("uid")
    assert scores["clip_score"].mean() < 0.2
    assert scores["dfn_score"].mean() > 0.6
    stored = open_filter(made / "adapter", "path")
    assert stored.facts["rows"] == 200
    assert stored.facts["held_out"] == 20
    curve = json.loads((made / "adapter/loss.json").read_text())[0]
    best = stored.facts["best_epoch"][0]
    assert curve[best]["validation"] == min(one["validation"] for one in curve) < curve[0]["validation"] / 2
    assert "<svg" in (made / "adapter/training.html").read_text()


def test_a_run_scores_as_the_formula_says(made):
    scores = open_run(made / "run").scores().sort("uid")
    table = pq.read_table(made / "pool/train-0.parquet")
    halves = [np.stack(table[name].to_numpy()) for name in ("img", "txt")]
    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in halves]
    stored = open_filter(made / "adapter", "path")
    back = [stored.arrays[f"background_{name}"].astype(np.float64) for name in ("image", "text")]
    assert len(back[0]) == 20
    weights = [(stored.arrays[f"{name}_weight"], stored.arrays[f"{name}_bias"]) for name in ("image", "text")]
    moved = [adapted(rows, *weights[place % 2]) for place, rows in enumerate([*unit, *back])]
    score, loss = pair_scores(*moved, stored.facts["scale"])
    np.testing.assert_allclose(scores["dfn_score"].to_numpy(), score, atol=2e-3)  # stored in half precision
    np.testing.assert_allclose(scores["dfn_loss"].to_numpy(), loss, atol=5e-2)


def test_a_head_gives_the_loss_of_labels(made):
    scores = open_run(made / "run").scores()
    assert scores["prior_status"].unique().to_list() == ["ok"]
    np.testing.assert_allclose(
        np.exp(-scores["prior_loss"].to_numpy()), scores["prior_score"].to_numpy(), rtol=1e-5
    )


def test_a_head_goes_by_the_names_of_labels_where_numbers_mean_others(tmp_path):
    path = write_pairs(tmp_path / "plain.parquet", 60)
    table = pq.read_table(path)
    codes = np.arange(60) % 3
    made = {}
    for place, names in enumerate((["car", "bus", "dog"], ["dog", "car", "bus"], ["ant", "bee", "cow"])):
        features = {"label": {"_type": "ClassLabel", "names": names}}
        own = (
            np.array([names.index(one) for one in np.array(["car", "bus", "dog"])[codes]])
            if place < 2
            else codes
        )
        called = table.set_column(4, "label", pa.array(own, pa.int64())).replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
        pq.write_table(called, tmp_path / f"{place}.parquet")
        made[place] = str(tmp_path / f"{place}.parquet")
    stored = train_recipe(recipe(made[0], tmp_path / "head", kind="head", epochs=20, rate=0.1))
    assert stored.facts["class_names"] == {"0": "car", "1": "bus", "2": "dog"}
    found = {}
    for place, source in made.items():
        run = curate.run(
            {
                "run": str(tmp_path / f"run{place}"), "source": {"path": source, "uid": "id"}, "embed": EMBED, "workers": 1,
                "cluster": {"concepts": 3}, "score": [{"dfn": {"path": str(stored.path)}}], "select": {"method": "all"},
            },
            progress=False,
        )  # fmt: skip
        found[place] = run.scores().sort("uid")
    assert found[0]["dfn_score"].to_list() == found[1]["dfn_score"].to_list()
    assert found[0]["dfn_score"].null_count() == 0
    assert set(found[2]["dfn_status"]) == {"no_label"}
    with pytest.raises(UsageError, match=r"start: label '0' is 'car' to the head and 'dog' in the set"):
        train_recipe(recipe(made[1], tmp_path / "b", kind="head", start=str(stored.path)))


def test_in_memory_and_in_a_run_the_numbers_are_the_same(made):
    table = pq.read_table(made / "pool/train-0.parquet")
    image, text = (np.stack(table[name].to_numpy()) for name in ("img", "txt"))
    found = curate.score(
        image, {"dfn": {"path": str(made / "adapter")}}, text=text, uids=table["id"].to_pylist()
    )
    run = open_run(made / "run").scores().select(found.columns)
    assert found.sort("uid").equals(run.sort("uid"))


def test_what_is_there_is_not_trained_again_and_another_folder_gives_the_same(made, tmp_path):
    good = str(made / "good/train-0.parquet")
    before = (made / "adapter/weights.npz").stat().st_mtime_ns
    again = train_recipe(recipe(good, made / "adapter", epochs=15, rate=2e-2, decay=0.0))
    assert (made / "adapter/weights.npz").stat().st_mtime_ns == before
    # rows in another order
    table = pq.read_table(good).take(np.random.default_rng(0).permutation(200))
    pq.write_table(table, tmp_path / "train-1.parquet")
    other = train_recipe(
        recipe(str(tmp_path / "*.parquet"), tmp_path / "out", epochs=15, rate=2e-2, decay=0.0)
    )
    assert other.identity == again.identity
    assert all(np.array_equal(other.arrays[name], again.arrays[name]) for name in again.arrays)


@pytest.mark.parametrize("harm", ["torn", "gone", "facts"])
def test_a_damaged_filter_is_refused_and_trained_anew(made, tmp_path, harm):
    settings = recipe(str(made / "good/train-0.parquet"), tmp_path / "out", epochs=1)
    whole = train_recipe(settings)
    weights, facts = tmp_path / "out/weights.npz", tmp_path / "out/filter.json"
    before = weights.read_bytes()
    if harm == "torn":
        weights.write_bytes(before[:-100])
    elif harm == "gone":
        weights.unlink()
    else:
        facts.write_text(json.dumps({name: one for name, one in whole.facts.items() if name != "files"}))
    with pytest.raises(UsageError, match=r"score: dfn.* is damaged.*; train it anew"):
        curate.score(np.eye(DIM), {"dfn": {"path": str(tmp_path / "out")}}, text=np.eye(DIM))
    assert train_recipe(settings).identity == whole.identity
    assert weights.read_bytes() == before


def test_a_folder_is_trained_into_once_at_a_time(made, tmp_path):
    settings = recipe(str(made / "good/train-0.parquet"), tmp_path / "out", epochs=1)
    with lock.held(tmp_path / "out"), pytest.raises(RunError, match="is being written by process"):
        train_recipe(settings)
    train_recipe(settings)
    assert not (tmp_path / "out/.lock").exists()


def test_a_training_that_was_killed_goes_on_with_the_same_result(made, tmp_path):
    good = str(made / "good/train-0.parquet")
    settings = {"members": 2, "hard": 1.0}
    whole = train_recipe(recipe(good, tmp_path / "whole", **settings))
    seen = []

    def killed(stage, done, total, unit):
        if stage == "train":
            seen.append(done)
            if len(seen) == 38:  # in the third epoch of the second member
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_recipe(recipe(good, tmp_path / "cut", **settings), progress=killed)
    assert not (tmp_path / "cut/filter.json").exists()
    steps = []
    resumed = train_recipe(
        recipe(good, tmp_path / "cut", **settings),
        progress=lambda stage, done, *_: steps.append(done) if stage == "train" else None,
    )
    assert len(steps) < len(seen)
    assert resumed.identity == whole.identity
    assert (tmp_path / "cut/loss.json").read_bytes() == (tmp_path / "whole/loss.json").read_bytes()


def test_prior_and_conditional_make_color_and_learnability(made, tmp_path):
    prior = recipe(
        str(made / "good/train-0.parquet"),
        tmp_path / "prior",
        epochs=2,
        set={"run": str(made / "run"), "count": 50},
    )
    first = train_recipe(prior)
    second = train_recipe(
        recipe(
            str(made / "good/train-0.parquet"),
            tmp_path / "conditional",
            epochs=5,
            rate=1e-2,
            start=str(tmp_path / "prior"),
        )
    )
    assert (first.facts["rows"], second.facts["rows"]) == (50, 200)
    table = pq.read_table(made / "pool/train-0.parquet")
    image, text = (np.stack(table[name].to_numpy()) for name in ("img", "txt"))
    families = [{"dfn": {"path": str(tmp_path / name), "name": name}} for name in ("prior", "conditional")]
    families += [{"color": {"prior": "prior_loss", "conditional": "conditional_loss"}}]
    families += [{"learnability": {"learner": "prior_loss", "reference": "conditional_loss"}}]
    found = curate.score(image, families, text=text)
    want = found["prior_loss"].cast(pl.Float64) - found["conditional_loss"].cast(pl.Float64)
    np.testing.assert_allclose(found["color"].to_numpy(), want.to_numpy(), rtol=1e-6)
    assert found["learnability"].to_list() == found["color"].to_list()
    assert found["color"].mean() > 0  # the target set is of the same kind: it helps


def test_a_query_over_a_run_gives_the_rows_that_meet_it(made, tmp_path):
    best = {
        "run": str(made / "run"),
        "filter": [{"by": "clip_score", "quantile": 0.5, "per": "concept"}, "label != 'c0'"],
    }
    stored = train_recipe(recipe("none", tmp_path / "out", set=best, epochs=1))
    rows = open_run(made / "run")
    frame = rows.scores().join(rows.samples().select("uid", "label"), on="uid")
    frame = frame.join(rows.decisions().select("uid", "concept"), on="uid")
    cut = pl.col("clip_score").quantile(0.5, "linear").over("concept")
    assert stored.facts["rows"] == len(
        frame.filter((pl.col("clip_score") >= cut) & (pl.col("label") != "c0"))
    )
    kept = train_recipe(
        recipe("none", tmp_path / "kept", set={"run": str(made / "run"), "kept": True}, epochs=1)
    )
    assert kept.facts["rows"] == 30


def test_an_evaluation_set_must_be_apart(made, tmp_path):
    good = str(made / "good/train-0.parquet")
    (tmp_path / "eval.txt").write_text("s00007\nnone\n")
    message = r"set and against must share no row: 1 of .*eval\.txt are in the training set \(s00007\)"
    with pytest.raises(UsageError, match=message):
        train_recipe(recipe(good, tmp_path / "out", against=[str(tmp_path / "eval.txt")]))
    with pytest.raises(UsageError, match="must share no row: 60 of"):
        train_recipe(
            recipe("none", tmp_path / "out2", set={"run": str(made / "run")}, against=[str(made / "run")])
        )
    with pytest.raises(UsageError, match="must share no row: 200 of"):
        train_recipe(recipe(good, tmp_path / "out3", against=[{"path": good, "uid": "id"}]))
    (tmp_path / "other.txt").write_text("z1\n")
    train_recipe(
        recipe(good, tmp_path / "out4", epochs=1, against=[str(tmp_path / "other.txt"), str(made / "run")])
    )


def test_what_cannot_be_trained_is_said(made, tmp_path):
    good = str(made / "good/train-0.parquet")
    small = write_pairs(tmp_path / "small.parquet", 9)
    with pytest.raises(UsageError, match="at least 16 rows with captions are needed to train on, got 9 of 9"):
        train_recipe(recipe(small, tmp_path / "a"))
    with pytest.raises(UsageError, match=r"start: .* is of kind head, and the recipe asks for adapter"):
        train_recipe(recipe(good, tmp_path / "a", start=str(made / "head")))
    with pytest.raises(UsageError, match="start must be the folder of a trained filter"):
        train_recipe(recipe(good, tmp_path / "a", start=str(tmp_path)))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(UsageError, match="holds something else than a filter"):
        train_recipe(recipe(good, tmp_path / "mine"))
    with pytest.raises(UsageError, match="no score 'dfn_socre'; did you mean 'dfn_score'"):
        query = {"run": str(made / "run"), "filter": [{"by": "dfn_socre", "top": 0.5}]}
        train_recipe(recipe(good, tmp_path / "a", set=query))
    with pytest.raises(UsageError, match="filter 'dfn_score >': unable to parse"):
        query = {"run": str(made / "run"), "filter": ["dfn_score >"]}
        train_recipe(recipe(good, tmp_path / "a", set=query))
    with pytest.raises(RecipeError, match="needs sources of different names, got source, source"):
        train_recipe(recipe(good, tmp_path / "c", set={"source": [{"path": good}, {"path": small}]}))
    with pytest.raises(UsageError, match="kind head cannot be trained: the source has no labels"):
        unlabelled = {"source": {"path": good, "uid": "id", "label": None}}
        train_recipe(recipe(good, tmp_path / "d", kind="head", set=unlabelled))
    assert not (tmp_path / "d/.work/set/1_embeddings").exists()  # it was said before rows were embedded
    with pytest.raises(UsageError, match="holds something else than a filter"):
        train_recipe(recipe(good, made / "run"))
    with pytest.raises(UsageError, match="kind full cannot be trained: the source has no images"):
        query = {"run": str(made / "run")}
        train_recipe(recipe(good, tmp_path / "e", set=query, kind="full", model="tiny"))
    with pytest.raises(UsageError, match="is out, which is replaced"):
        train_recipe(recipe(good, made / "adapter", start=str(made / "adapter")))
    with pytest.raises(curate.CurateError, match="set a smaller rate"):
        train_recipe(recipe(good, tmp_path / "b", rate=1e30))


def test_a_filter_for_other_vectors_is_refused(made, tmp_path):
    narrow = np.eye(5)
    with pytest.raises(curate.CurateError, match="is for vectors of 12 numbers, the run has 5"):
        curate.score(narrow, {"dfn": {"path": str(made / "adapter")}}, text=narrow)
    with pytest.raises(UsageError, match=r"score: dfn\.path must be the folder of a trained filter"):
        curate.score(narrow, {"dfn": {"path": str(tmp_path)}}, text=narrow)
    weights = made / "adapter/weights.npz"
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "filter.json").write_bytes((made / "adapter/filter.json").read_bytes())
    (copy / "weights.npz").write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"weights\.npz is damaged or from another filter"):
        curate.score(np.eye(DIM), {"dfn": {"path": str(copy)}}, text=np.eye(DIM))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "adaptor"}, "kind"),
        ({"rat": 1.0}, "rat is not a setting; did you mean 'rate'"),
        ({"set": {}}, "set needs one of source and run"),
        ({"set": {"source": "x", "kept": True}}, "set takes filter and kept with run"),
        ({"model": "tiny"}, "takes model, pretrained and mix with kind full only"),
        ({"kind": "full"}, "needs model"),
        (
            {"kind": "full", "model": "tiny", "mix": {"a": {"share": 1}}},
            "must say the share of each source in mix: source, got a",
        ),
        ({"memory": "10kB"}, "memory must be at least 1GB, got 0.01MB"),
        (
            {
                "kind": "full",
                "model": "tiny",
                "batch": 4,
                "mix": {"a": {"share": 9}, "b": {"share": 1}},
                "set": {"source": [{"name": "a", "path": "x"}, {"name": "b", "path": "y"}]},
            },
            r"must give b a row of each batch in mix; raise its share or batch \(4\)",
        ),
        ({"batch": 1}, r"batch: .*greater than or equal to 2, got 1"),
        ({"alpha": math.inf}, "alpha"),
    ],
)
def test_wrong_settings_are_said_in_a_line(changes, message):
    values = {"out": "x", "set": {"source": {"path": "y"}}} | changes
    with pytest.raises(RecipeError, match=message):
        parse_filter_recipe(values)


def test_recipes_that_ship_load():
    from pathlib import Path

    found = sorted((Path(__file__).parents[2] / "data/recipes/filters").glob("*.yaml"))
    assert len(found) >= 2
    for path in found:
        assert load_filter_recipe(path, ["seed=3"]).seed == 3


def test_the_scale_is_clamped():
    from curate.training.losses import clamp_scale

    log_scale = torch.nn.Parameter(torch.tensor(9.0))
    clamp_scale(log_scale)
    assert float(log_scale.detach()) == pytest.approx(math.log(100))
