"""Scores that are projections on vectors of texts and on weights: hand numbers, brute force, edges, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from curate.errors import EmbeddingError, UsageError
from curate.linalg import load_unit
from curate.recipe.loading import parse_recipe
from curate.scores.clipn import out_of_distribution
from curate.scores.concept_share import share_inside, span_of
from curate.scores.in_memory import score
from curate.scores.linear import apply_layers, read_layers
from curate.scores.prompts import text_contrast
from tests.fixtures.builders import DIM, planted, recipe_values


def unit(n, dim=DIM, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# --- prompts --------------------------------------------------------------------------------------------------


def test_contrast_by_hand():
    rows = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], np.float32)
    like, unlike = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[2:]
    assert text_contrast(rows, like, unlike).tolist() == pytest.approx([0.7, -1.0])
    assert text_contrast(rows, unlike, unlike).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", [0, 1, 300])
def test_contrast_by_definition(n):
    rows, like, unlike = unit(n), unit(3, seed=1), unit(2, seed=2)
    cosines = rows.astype(float) @ np.concatenate([like, unlike]).T.astype(float)
    want = cosines[:, :3].mean(axis=1) - cosines[:, 3:].mean(axis=1)
    found = text_contrast(rows, like, unlike)
    assert found.shape == (n,)
    np.testing.assert_allclose(found, want, atol=1e-6)
    assert np.array_equal(found, -text_contrast(rows, unlike, like))
    for row in range(0, n, 50):  # a value depends on its own row alone
        assert found[row] == text_contrast(rows[row : row + 1], like, unlike)[0]


def test_prompts_in_memory_take_files(tmp_path):
    np.save(tmp_path / "good.npy", 5 * unit(3, seed=1))
    np.save(tmp_path / "bad.npy", unit(1, seed=2)[0])  # one vector without the other dimension
    prompts = {"name": "sharp", "like": [str(tmp_path / "good.npy")], "unlike": str(tmp_path / "bad.npy")}
    half = planted(40)
    table = score(half, {"prompts": prompts})
    assert table.columns == ["uid", "sharp", "sharp_status"]
    want = text_contrast(load_unit(half), unit(3, seed=1), unit(1, seed=2))
    np.testing.assert_allclose(table["sharp"].to_numpy(), want, atol=1e-6)
    assert set(table["sharp_status"]) == {"ok"}
    with pytest.raises(
        UsageError, match=r"prompts sharp: there is no model that reads 'a sharp photo'.*\.npy"
    ):
        score(half, {"prompts": prompts | {"like": ["a sharp photo"]}})
    np.save(tmp_path / "bad.npy", unit(1, 8))
    with pytest.raises(EmbeddingError, match="must have 16 numbers, as those of the samples, got 8"):
        score(half, {"prompts": prompts})


# --- linear heads ----------------------------------------------------------------------------------------------


def test_layers_by_hand():
    rows = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    first = np.array([[1.0, -1.0], [2.0, 0.0]]), np.array([0.0, -1.0])
    last = np.array([[10.0, 1.0]]), np.array([0.5])
    # 0.6 - 0.8 = -0.2 and 1.2 - 1 = 0.2; 1 and 1
    assert apply_layers(rows, [first, last]).tolist() == pytest.approx([-2.0 + 0.2 + 0.5, 11.5])
    assert apply_layers(rows, [first, last], relu=True).tolist() == pytest.approx([0.7, 11.5])
    assert apply_layers(rows[:0], [first, last]).shape == (0,)


def test_a_head_in_every_kind_of_file(tmp_path):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    head = torch.nn.Linear(DIM, 1)
    save_file(head.state_dict(), tmp_path / "head.safetensors")
    weight = head.weight.detach().numpy()
    np.savez(tmp_path / "head.npz", w=weight[0], b=head.bias.detach().numpy()[0])
    half = planted(300)
    with torch.no_grad():
        want = head(torch.from_numpy(load_unit(half)))[:, 0].numpy()
    for name in ("head.safetensors", "head.npz"):
        linear = {"weights": str(tmp_path / name), "name": "aesthetic"}
        found = score(half, {"linear": linear})
        assert found.columns == ["uid", "aesthetic", "aesthetic_status"]
        np.testing.assert_allclose(found["aesthetic"].to_numpy(), want, atol=1e-5)
        logistic = score(half, {"linear": linear | {"sigmoid": True}})["aesthetic"].to_numpy()
        np.testing.assert_allclose(logistic, 1 / (1 + np.exp(-want)), atol=1e-6)


def test_layers_stand_in_the_order_of_their_numbers(tmp_path):
    """As LAION's later head: linear layers with dropout between, whose names count on to two digits."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    parts = [torch.nn.Linear(DIM, 8), torch.nn.Dropout(), torch.nn.Linear(8, 4), *[torch.nn.Dropout()] * 7]
    network = torch.nn.Sequential(*parts, torch.nn.Linear(4, 1)).eval()
    save_file(
        {f"layers.{name}": one for name, one in network.state_dict().items()}, tmp_path / "a.safetensors"
    )
    assert [len(bias) for _, bias in read_layers(tmp_path / "a.safetensors")] == [8, 4, 1]
    half = planted(50)
    with torch.no_grad():
        want = network(torch.from_numpy(load_unit(half)))[:, 0].numpy()
    found = score(half, {"linear": {"weights": str(tmp_path / "a.safetensors")}})["linear"].to_numpy()
    np.testing.assert_allclose(found, want, atol=1e-5)


@pytest.mark.parametrize(
    ("given_arrays", "message"),
    [
        ({"weight": np.ones((2, 4)), "bias": np.ones(2)}, "a head must give one number, this one gives 2"),
        ({"weight": np.ones((1, 4)), "bias": np.ones(2)}, r"a bias \(out,\), got \(1, 4\) and \(2,\)"),
        ({"bias": np.ones(1)}, "has a bias and no weight"),
        ({"mean": np.ones(4)}, "'mean' is neither a weight nor a bias"),
        ({"weight": np.full((1, 4), np.nan)}, "must hold finite floats"),
        ({"weight": np.ones((1, 4), np.int64)}, "must hold finite floats, got int64"),
        (
            {"0.weight": np.ones((3, 4)), "1.weight": np.ones((1, 2))},
            "gives 3 numbers comes before one that takes 2",
        ),
        ({"weight": np.ones(4), "w": np.ones(4)}, "two arrays for the weight"),
        ({}, "holds no arrays"),
    ],
)
def test_weights_that_are_no_head(tmp_path, given_arrays, message):
    np.savez(tmp_path / "head.npz", **given_arrays)
    with pytest.raises(UsageError, match=message):
        read_layers(tmp_path / "head.npz")


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not one")
    with pytest.raises(UsageError, match=r"a\.safetensors is no readable \.safetensors file"):
        read_layers(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="there is no file"):
        read_layers(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", weight=np.ones((1, 5)))
    with pytest.raises(EmbeddingError, match="takes vectors of 5 numbers, those of the samples have 16"):
        score(planted(3), {"linear": {"weights": str(tmp_path / "c.npz")}})


# --- no class ----------------------------------------------------------------------------------------------------


def test_no_class_by_hand():
    """Cosines 1, 0 with the classes and 0, 1 with their denials, t = 1: p = (.7311, .2689), q = (.2689, .7311)."""
    eye = np.eye(2, dtype=np.float32)
    winner, agreed = out_of_distribution(eye[:1], eye, eye[::-1], 1.0)
    assert winner[0] == pytest.approx(0.268941, abs=1e-6)
    assert agreed[0] == pytest.approx(1 - (0.731059**2 + 0.268941**2), abs=1e-6)
    both = out_of_distribution(eye, eye, eye, 0.01)  # denied as much as said
    assert [one.tolist() for one in both] == [[0.5, 0.5], [0.5, 0.5]]


def slow_no_class(rows, yes, no, temperature):
    """CLIPN's inference, class by class (its published code keeps the share of "yes")."""
    winner, agreed = [], []
    for row in rows.astype(float):
        said = np.exp(np.array([row @ one for one in yes.astype(float)]) / temperature)
        denied = np.exp(np.array([row @ one for one in no.astype(float)]) / temperature)
        holds = said / (said + denied)
        winner.append(1 - holds[said.argmax()])
        agreed.append(1 - (holds * said / said.sum()).sum())
    return np.array(winner), np.array(agreed)


@pytest.mark.parametrize(("n", "classes"), [(0, 3), (1, 1), (300, 7)])
def test_no_class_by_definition(n, classes):
    rows, yes, no = unit(n), unit(classes, seed=1), unit(classes, seed=2)
    found = out_of_distribution(rows, yes, no, 0.1)
    for one, want in zip(found, slow_no_class(rows, yes, no, 0.1), strict=True):
        np.testing.assert_allclose(one, want, atol=1e-6)
    alone = [out_of_distribution(rows[i : i + 1], yes, no, 0.1) for i in range(n)]
    assert all(np.array_equal(found[k][i], one[k][0]) for i, one in enumerate(alone) for k in (0, 1))


def test_a_class_is_the_mean_of_its_prompts(tmp_path):
    yes, no = unit(4, seed=1), unit(4, seed=2)
    np.save(tmp_path / "yes.npy", yes)
    np.save(tmp_path / "no.npy", no)
    half = planted(30)
    table = score(half, {"clipn": {"yes": str(tmp_path / "yes.npy"), "no": str(tmp_path / "no.npy")}})
    assert table.columns == ["uid", "ood_ctw", "ood_atd", "ood_status"]
    want = out_of_distribution(load_unit(half), yes, no, 0.01)
    np.testing.assert_allclose(table["ood_ctw"].to_numpy(), want[0], atol=1e-6)
    np.save(tmp_path / "no.npy", no[:3])
    with pytest.raises(EmbeddingError, match="one row a class in yes and no, got 4 and 3"):
        score(half, {"clipn": {"yes": str(tmp_path / "yes.npy"), "no": str(tmp_path / "no.npy")}})


# --- the space of a concept -------------------------------------------------------------------------------------------


def test_share_by_hand():
    rows = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], np.float32)
    eye = np.eye(3, dtype=np.float32)
    assert share_inside(rows, span_of(eye[:1], eye[:0])).tolist() == pytest.approx([0.36, 0.0, 1.0])
    assert share_inside(rows, span_of(eye[:2], eye[:0])).tolist() == pytest.approx([1.0, 0.0, 1.0])
    assert share_inside(rows, span_of(eye[:2], eye[1:2])).tolist() == pytest.approx([0.36, 0.0, 1.0])
    with pytest.raises(EmbeddingError, match="nothing of concept is left"):
        span_of(eye[:1], eye[:2])


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=16)), st.integers(0, 5))
def test_share_is_that_of_the_nearest_point_of_the_space(texts, seed):
    texts = texts + np.eye(3, 5, dtype=np.float32) * 3
    rows = unit(4, 5, seed)
    found = share_inside(rows, span_of(texts, texts[:0]))
    nearest = np.linalg.lstsq(texts.T.astype(float), rows.T.astype(float), rcond=None)[0]
    off = rows - (texts.T.astype(float) @ nearest).T
    np.testing.assert_allclose(found, 1 - (off**2).sum(axis=1), atol=1e-5)
    twice = share_inside(rows, span_of(np.concatenate([texts, texts[:1]]), texts[:0]))
    np.testing.assert_allclose(found, twice, atol=1e-6)


# --- what is refused before any work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            {"prompts": {"like": "a photo"}},
            r"score: prompts prompts\.like: there is no model that reads 'a photo'",
        ),
        (
            {"clipn": {"classes": ["cat"]}},
            "score: clipn ood.yes: there is no model that reads 'a photo of a cat'",
        ),
        ({"concept_share": {"concept": "blood"}}, "score: concept_share unsafe.concept: there is no model"),
        ({"prompts": {"like": "none.npy"}}, "score: prompts prompts.like: there is no file none.npy"),
        ({"linear": {"weights": "none.npz"}}, "linear.weights: there is no file none.npz"),
    ],
)
def test_runs_with_vectors_of_their_own_need_vectors_of_texts(tmp_path, family, message):
    from curate.pipeline.stages.score import SOURCES
    from curate.scores.registry import check_recipe

    recipe = parse_recipe(recipe_values("a.parquet", tmp_path / "run", score=[family]))
    with pytest.raises(UsageError, match=message):
        check_recipe(recipe, SOURCES)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ({"prompts": {"like": []}}, "score.prompts.like"),
        ({"prompts": {"like": "a", "name": "pair"}}, "score.prompts.name"),
        (
            {"linear": {"weights": "head.pth"}},
            r"score\.linear\.weights must be a \.npz or \.safetensors file \(docs.*got 'head\.pth'",
        ),
        ({"clipn": {}}, "needs classes, or files of the vectors of both kinds"),
        ({"clipn": {"classes": ["a", "a"]}}, "needs classes of different names"),
        ({"clipn": {"classes": "a", "no_templates": "nothing"}}, "templates must hold {}"),
    ],
)
def test_settings_that_say_nothing(tmp_path, family, message):
    from curate.errors import RecipeError

    with pytest.raises(RecipeError, match=message):
        parse_recipe(recipe_values("a.parquet", tmp_path / "run", score=[family]))
