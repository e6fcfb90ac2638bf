"""Networks on pixels: gradient lengths against loops over samples, then training, resuming and the edges."""

import numpy as np
import pytest
import torch
from torch import nn

from curate.errors import CurateError, ModelError, RecipeError, RunError
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.heads.folds import row_hashes
from curate.scores.pixels import training as pixels
from curate.scores.pixels.ghost import gradient_norms
from curate.scores.pixels.images import augmented, minibatches
from curate.scores.pixels.resnet import ResNet
from curate.scores.pixels.training import PixelSettings, train_pixels
from curate.scores.status import status_names

TINY = {"width": 4, "blocks": (1, 1), "batch": 16, "threads": 1, "rate": 0.05}


@pytest.fixture(autouse=True)
def one_thread():
    """Small products on a busy machine: a second thread only waits."""
    with fixed_threads():
        yield


def pictures(n=96, size=8, seed=0, flipped=0.1):
    """Noise with a brighter channel per class, some labels flipped: images, labels, which are flipped."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    images = rng.integers(0, 120, (n, size, size, 3))
    images[np.arange(n), :, :, label] += 100
    wrong = np.zeros(n, bool)
    wrong[rng.permutation(n)[: int(n * flipped)]] = True
    label[wrong] = (label[wrong] + 1) % 3
    return images.astype(np.uint8), [f"class {code}" for code in label], wrong


def names(n):
    return [f"row {number}" for number in range(n)]


def columns(result):
    return {name: getattr(result, name) for name in result.column_names()}


# Gradient lengths


class Mixed(nn.Module):
    """Every kind of layer: strides, biases, a dilated and a 1 x 1 convolution, positions through a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.wide = nn.Conv2d(5, 40, (2, 3), padding=(1, 2), dilation=2)
        self.point = nn.Conv2d(40, 4, 1, stride=2)
        self.positions = nn.Linear(4, 6, bias=False)
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.relu(self.wide(torch.relu(self.norm(self.conv(x)))))
        x = self.positions(self.point(x).flatten(2).transpose(1, 2))
        return self.last(torch.tanh(x).mean(1))


def lived_in(model):
    """The model with batch norms that have seen data, in eval mode."""
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(2 * torch.randn(8, 3, 9, 9, dtype=next(model.parameters()).dtype) + 1)
    return model.eval()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make", [Mixed, lambda: ResNet(3, width=4, blocks=(1, 2)), lambda: ResNet(3, width=32, blocks=(1,))]
)
def test_gradient_lengths_equal_a_loop_over_samples(make, kind):
    torch.manual_seed(0)
    model = lived_in(make().to(kind))
    x, label = torch.randn(6, 3, 9, 9, dtype=kind), torch.randint(0, 3, (6,))
    logits, norms = gradient_norms(model, x, label)
    torch.testing.assert_close(logits, model(x).detach())
    for row in range(6):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[row : row + 1]), label[row : row + 1]).backward()
        true = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5
        assert float(norms[row]) == pytest.approx(true, rel=1e-5 if kind == torch.float32 else 1e-12)
    assert all(p.requires_grad for p in model.parameters())


def test_gradient_lengths_equal_vmap_of_grad():
    torch.manual_seed(0)
    model = lived_in(ResNet(3, width=4, blocks=(1, 1)).double())
    x, label = torch.randn(4, 3, 9, 9).double(), torch.randint(0, 3, (4,))
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(given, image, y):
        logits = torch.func.functional_call(model, (given, buffers), (image[None],))
        return nn.functional.cross_entropy(logits, y[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, label)
    true = sum(g.flatten(1).square().sum(1) for g in each.values()).sqrt()
    torch.testing.assert_close(gradient_norms(model, x, label)[1], true.detach())


def test_gradient_lengths_refuse_what_they_would_get_wrong():
    x, label = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]

    def refused(match, *layers, training=False):
        with pytest.raises(ModelError, match=match):
            gradient_norms(nn.Sequential(*layers, *tail).train(training), x, label)

    conv = nn.Conv2d(3, 3, 3, padding=1)
    refused("eval mode", conv, training=True)
    refused("written over", conv, nn.BatchNorm2d(3), nn.ReLU(inplace=True))
    refused("used twice", conv, conv)
    refused("must be one of .*Linear, got GroupNorm", nn.GroupNorm(1, 3))
    refused("groups must be 1", nn.Conv2d(3, 3, 3, groups=3))
    refused("running statistics", nn.BatchNorm2d(3, track_running_stats=False))


# Training


def test_flipped_labels_are_hard():
    images, labels, wrong = pictures(150)
    got = train_pixels([images], names(150), labels, PixelSettings(n_seeds=2, epochs=4, cross_fit=2, **TINY))
    hardest = np.argsort(-got.el2n)[: wrong.sum()]
    assert wrong[hardest].mean() > 0.8 and got.accuracy.min() > 0.7
    assert wrong[np.argsort(-got.neg_aum)[: wrong.sum()]].mean() > 0.8 and (got.status == 0).all()
    assert (got.n_obs == 2).all() and np.isfinite(got.grand).all() and got.grand.min() > 0


def test_rows_and_batches_in_any_order_give_the_same_bits():
    images, labels, _ = pictures()
    settings = PixelSettings(n_seeds=2, epochs=2, **TINY)
    want = train_pixels([images], names(96), labels, settings)
    order = np.random.default_rng(1).permutation(96)
    split = np.split(images[order], [10, 11, 60])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    got = train_pixels(split, [f"row {row}" for row in order], [labels[row] for row in order], settings)
    for name, values in columns(want).items():
        np.testing.assert_array_equal(getattr(got, name), values[order], err_msg=name)
    assert torch.equal(before, torch.get_rng_state()) and not torch.are_deterministic_algorithms_enabled()
    assert (got.el2n_std > 0).any()


RESUMED = PixelSettings(n_seeds=2, epochs=2, cross_fit=2, score_epochs=(1, 2), **TINY)


@pytest.fixture(scope="module")
def undisturbed():
    images, labels, _ = pictures(48)
    with fixed_threads():
        return train_pixels([images], names(48), labels, RESUMED)


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_resumed_run_is_an_undisturbed_one(tmp_path, monkeypatch, stop, undisturbed):
    images, labels, _ = pictures(48)
    settings, want = RESUMED, undisturbed
    saved = pixels._Run._save
    count = 0

    def dying(self, *given):
        nonlocal count
        saved(self, *given)
        count += 1
        if count == stop:
            raise KeyboardInterrupt

    path = tmp_path / "deep" / "pixels.pt"
    monkeypatch.setattr(pixels._Run, "_save", dying)
    with pytest.raises(KeyboardInterrupt):
        train_pixels([images], names(48), labels, settings, checkpoint=path)
    got = train_pixels([images], names(48), labels, settings, checkpoint=path)
    assert count == 8
    again = train_pixels([images], names(48), labels, settings, checkpoint=path)
    assert count == 8
    for one in (got, again):
        for name, values in columns(want).items():
            np.testing.assert_array_equal(getattr(one, name), values, err_msg=name)
        np.testing.assert_array_equal(one.pred_label, want.pred_label)
    assert [file.name for file in path.parent.iterdir()] == ["pixels.pt"]
    with pytest.raises(RunError, match="of others"):
        train_pixels([255 - images], names(48), labels, settings, checkpoint=path)


def test_labels_of_held_out_samples_do_not_matter(monkeypatch):
    def by_row(hashes, code, n_folds, seed, model_seed):
        return (hashes % np.uint64(n_folds)).astype(np.uint8)

    monkeypatch.setattr(pixels, "assign_folds", by_row)
    images, labels, _ = pictures(48)
    settings = PixelSettings(n_seeds=1, epochs=1, cross_fit=2, **TINY)
    before = train_pixels([images], names(48), labels, settings)
    own = row_hashes(names(48), 0) % np.uint64(2) == row_hashes(names(48), 0)[5] % np.uint64(2)
    labels[5] = "class 0" if labels[5] != "class 0" else "class 1"
    after = train_pixels([images], names(48), labels, settings)
    np.testing.assert_allclose(before.entropy[own], after.entropy[own], rtol=1e-6)
    assert (abs(before.entropy[~own] / after.entropy[~own] - 1) > 1e-6).all()


def test_own_networks_and_no_gradients():
    images, labels, _ = pictures(30)

    def make(n_classes):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, n_classes))

    settings = PixelSettings(n_seeds=1, epochs=1, grand=False, **TINY)
    got = train_pixels([images], names(30), labels, settings, make=make)
    assert np.isnan(got.grand).all() and np.isfinite(got.el2n).all()


def test_seeds_that_diverge_are_an_error_when_none_is_left(caplog):
    images, labels, _ = pictures(30)

    def make(n_classes):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, n_classes))
        nn.init.constant_(model[1].weight, float("nan"))
        return model

    with pytest.raises(CurateError, match="every seed left the finite numbers"):
        train_pixels([images], names(30), labels, PixelSettings(n_seeds=2, epochs=1, **TINY), make=make)
    assert "seeds [0]" in caplog.text and "seeds [1]" in caplog.text


# Pieces and edges


def test_augmentation_is_a_shift_and_a_mirror():
    x = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    plain = np.uint64(1) << np.uint64(32) | np.uint64(2)  # one to the right and down, of two: the middle
    assert torch.equal(augmented(x, np.array([plain] * 2)), x)
    assert torch.equal(augmented(x, np.array([plain | np.uint64(1)] * 2)), x.flip(3))
    moved = augmented(x, np.array([np.uint64(1) << np.uint64(32), plain]))
    assert torch.equal(moved[0, :, 1:], x[0, :, :-1]) and (moved[0, :, 0] == 0).all()
    assert torch.equal(moved[1], x[1])


def test_minibatches_leave_no_row_alone():
    for n, size, want in [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (1, 4, [1]), (0, 4, []), (8, 4, [4, 4])]:
        cut = list(minibatches(np.arange(n), size))
        assert [len(part) for part in cut] == want
        assert np.concatenate([np.empty(0, int), *cut]).tolist() == list(range(n))


def test_wrong_input_is_refused():
    images, labels, _ = pictures(12)
    with pytest.raises(CurateError, match="uint8 of shape"):
        train_pixels([images.astype(np.float32)], names(12), labels)
    with pytest.raises(CurateError, match=r"one size, got \(4, 8\) after \(8, 8\)"):
        train_pixels([images[:6], images[6:, :4]], names(12), labels)
    with pytest.raises(CurateError, match="one uid per image, got 11 for 12"):
        train_pixels([images], names(11), labels)
    with pytest.raises(CurateError, match="more than 100 bytes"):
        train_pixels([images], names(12), labels, PixelSettings(memory=100))
    with pytest.raises(RecipeError, match=r"pixels\.epochs must be at least 1, got 0"):
        PixelSettings(epochs=0)
    with pytest.raises(RecipeError, match="width must be at least 1"):
        PixelSettings(width=0)


def test_no_samples_and_one_class_give_no_scores():
    images, _, _ = pictures(6)
    got = train_pixels([images], names(6), ["a"] * 6)
    assert set(status_names(got.status)) == {"single_class"} and np.isnan(got.el2n).all()
    assert len(train_pixels([], [], []).el2n) == 0
