"""Heads on embeddings: against autograd and plain loops, then what must not change a result, then the edges."""

import numpy as np
import pytest
import torch

from curate.embedding.store import EmbeddingPart, Vectors, write_part
from curate.errors import CurateError, EmbeddingError, RecipeError
from curate.scores.heads import batches as rows
from curate.scores.heads import factory, training
from curate.scores.heads.batches import Batches, PartRows
from curate.scores.heads.el2n import error_vectors
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.heads.factory import make_group
from curate.scores.heads.folds import assign_folds, encode_labels, labelled, mix, row_hashes
from curate.scores.heads.linear import FoldedGroup, LinearGroup
from curate.scores.heads.logits import logit_stats
from curate.scores.heads.mlp import MlpGroup
from curate.scores.heads.softmax import softmax_of
from curate.scores.heads.training import HeadSettings, train_heads
from curate.scores.heads.zeroshot import score_concepts, zero_shot
from curate.scores.status import status_names
from tests.reference import dynamics
from tests.reference.array_rows import ArrayRows
from tests.reference.el2n import el2n
from tests.reference.losses import entropy, loss, margin_logit, p_label, pred_label, softmax

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Small products on a busy machine: a second thread only waits."""
    with fixed_threads():
        yield


def clusters(n=300, dim=8, n_classes=3, flipped=0.1, seed=0, norm=3.0):
    """Gaussian classes with some labels flipped: vectors, labels, which are flipped."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n_classes, dim))
    centres *= norm / np.linalg.norm(centres, axis=1, keepdims=True)
    label = rng.integers(0, n_classes, n)
    x = centres[label] + rng.standard_normal((n, dim))
    wrong = np.zeros(n, bool)
    wrong[rng.permutation(n)[: int(n * flipped)]] = True
    label[wrong] = (label[wrong] + rng.integers(1, n_classes, wrong.sum())) % n_classes
    return x, [f"class {code}" for code in label], wrong


def names(n):
    return [f"row {number}" for number in range(n)]


def columns(result):
    return {name: getattr(result, name) for name in result.column_names()}


def same(a, b, **tolerance):
    """Whether two results agree: exactly, or within a tolerance."""
    for name, values in columns(a).items():
        np.testing.assert_allclose(
            values, getattr(b, name), err_msg=name, **(tolerance or {"rtol": 0, "atol": 0})
        )
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_array_equal(a.n_obs, b.n_obs)


# One batch of logits


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_stats_of_logits_agree_with_the_references(scale):
    rng = np.random.default_rng(1)
    logits = (scale * rng.standard_normal((200, 7))).astype(np.float32)
    label = rng.integers(0, 7, 200)
    softmax_sums = softmax_of(torch.from_numpy(logits.copy()), torch.from_numpy(label))
    seen = logit_stats(softmax_sums)
    exact = logits.astype(np.float64)
    for name, function in [("loss", loss), ("p_label", p_label), ("margin", margin_logit)]:
        np.testing.assert_allclose(getattr(seen, name), function(exact, label), rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(seen.el2n, el2n(exact, label, of="logits"), rtol=2e-6)
    np.testing.assert_allclose(seen.entropy, entropy(exact), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen.pred, pred_label(exact))
    short = logit_stats(softmax_of(torch.from_numpy(logits.copy()), torch.from_numpy(label), brief=True))
    for name in ("loss", "p_label", "margin", "right", "finite"):
        assert torch.equal(getattr(short, name), getattr(seen, name))
    np.testing.assert_array_equal(seen.right, pred_label(exact) == label)
    errors = error_vectors(softmax_sums).numpy()
    probs = np.exp(exact - exact.max(1, keepdims=True))
    probs /= probs.sum(1, keepdims=True)
    np.testing.assert_allclose(errors, probs - np.eye(7)[label], atol=1e-6)


def test_stats_of_logits_at_known_numbers_ties_and_extremes():
    p = np.array([[0.7, 0.2, 0.1]] * 3, np.float32)
    seen = logit_stats(softmax_of(torch.from_numpy(np.log(p)), torch.tensor([0, 1, 2])))
    np.testing.assert_allclose(seen.el2n, [0.374166, 1.067708, 1.157584], atol=1e-6)
    np.testing.assert_allclose(seen.loss, [0.356675, 1.609438, 2.302585], atol=1e-6)
    np.testing.assert_allclose(seen.entropy, 0.801819, atol=1e-6)
    seen = logit_stats(
        softmax_of(torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]]), torch.tensor([0, 0, 1]))
    )
    np.testing.assert_allclose(seen.el2n, [0, np.sqrt(2), np.sqrt(0.5)], atol=1e-7)
    np.testing.assert_allclose(seen.loss, [0, 2e4, np.log(2)])
    assert seen.pred.tolist() == [0, 1, 0] and seen.right.tolist() == [True, False, False]
    assert (
        logit_stats(
            softmax_of(torch.tensor([[np.nan, 0.0], [np.inf, 0.0]]), torch.tensor([0, 0]))
        ).finite.tolist()
        == [False] * 2
    )


# Gradients


def head(kind, seeds=(0, 1), n_folds=3, dim=5, n_classes=4):
    if kind != "mlp":
        group = LinearGroup if kind == "linear" else FoldedGroup
        return group(seeds, n_folds, dim, n_classes, seed=7, momentum=0.9, device=CPU)
    return MlpGroup(seeds, n_folds, dim, n_classes, hidden=6, seed=7, momentum=0.9, device=CPU)


def weights(group, model):
    """The parameters of one model, as leaves of autograd."""
    return [tensor.clone().requires_grad_() for tensor in group.model(model)]


def forward(x, parameters):
    if len(parameters) == 2:
        return x @ parameters[0] + parameters[1]
    return torch.relu(x @ parameters[0] + parameters[1]) @ parameters[2] + parameters[3]


def gradients(x, label, parameters):
    total = torch.nn.functional.cross_entropy(forward(x, parameters), label, reduction="sum")
    return torch.autograd.grad(total, parameters)


@pytest.mark.parametrize("kind", ["linear", "folded", "mlp"])
def test_two_steps_are_momentum_descent_on_the_rows_outside_the_fold(kind):
    torch.manual_seed(0)
    group = head(kind)
    x, label, fold = torch.randn(40, 5), torch.randint(0, 4, (40,)), torch.randint(0, 3, (40, 2))
    twin = [weights(group, model) for model in range(6)]
    velocity = [[torch.zeros_like(p) for p in parameters] for parameters in twin]
    rates = [1.0, 1.0] if kind != "mlp" else [1.0, 1.0, 2 * 5 / 6, 2 * 5 / 6]
    for _ in range(2):
        group.step(x, label, fold, 0.01)
        for model, parameters in enumerate(twin):
            rows = fold[:, model // 3] != model % 3
            grads = gradients(x[rows], label[rows], parameters)
            velocity[model] = [0.9 * v + g for v, g in zip(velocity[model], grads, strict=True)]
            steps = zip(parameters, velocity[model], rates, strict=True)
            twin[model] = [(p - 0.01 * r * v).detach().requires_grad_() for p, v, r in steps]
    for model, parameters in enumerate(twin):
        for ours, theirs in zip(weights(group, model), parameters, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "folded", "mlp"])
def test_gradient_lengths_equal_one_backward_pass_per_row(kind):
    torch.manual_seed(0)
    group = head(kind)
    x, label = torch.randn(9, 5), torch.randint(0, 4, (9,))
    bounds = [4, 4, 9]  # rows of fold 0 and 2; nothing in fold 1
    logits = torch.empty(9, 4)
    hidden = group.held_out(x, bounds, 1, logits)
    sums = softmax_of(logits.clone(), label)
    seen = logit_stats(sums)
    squares = x.double().square().sum(1)
    errors = error_vectors(sums)
    found = group.gradient_norms(errors, seen.el2n, squares, hidden, bounds, 1)
    for row in range(9):
        parameters = weights(group, 3 + (0 if row < 4 else 2))
        torch.testing.assert_close(logits[row : row + 1], forward(x[row : row + 1], parameters))
        true = sum(
            g.double().square().sum() for g in gradients(x[row : row + 1], label[row : row + 1], parameters)
        )
        assert float(found[row] ** 2) == pytest.approx(float(true), rel=1e-5)


def test_known_gradient_lengths():
    group = LinearGroup([0], 0, 2, 2, seed=0, momentum=0.0, device=CPU)
    group.w.zero_()
    z, label = torch.empty(1, 2), torch.tensor([0])
    group.held_out(torch.tensor([[3.0, 4.0]]), [1], 0, z)
    sums = softmax_of(z, label)
    seen = logit_stats(sums)
    norm = group.gradient_norms(None, seen.el2n, torch.tensor([25.0]), torch.empty(1, 0), [1], 0)
    assert float(norm) == pytest.approx(3.605551, abs=1e-6)
    group = MlpGroup([0], 0, 2, 2, hidden=2, seed=0, momentum=0.0, device=CPU)
    group.model(0)[0][:], group.model(0)[2][:] = torch.eye(2), torch.eye(2)
    hidden = group.held_out(torch.tensor([[1.0, 0.0]]), [1], 0, z)
    sums = softmax_of(z, label)
    seen = logit_stats(sums)
    assert float(seen.el2n) == pytest.approx(0.380341, abs=1e-6)
    errors = error_vectors(sums)
    norm = group.gradient_norms(errors, seen.el2n, torch.tensor([1.0]), hidden, [1], 0)
    assert float(norm) == pytest.approx(0.658769, abs=1e-6)


# The protocol


def plain(x, uids, labels, settings):
    """The protocol as loops: one model at a time, rows outside its fold, float64, autograd; logits by epoch."""
    data = labelled(row_hashes(uids, settings.seed), labels, None, min_class=settings.smallest_class)
    batches = Batches(ArrayRows(x), data.rows, data.hashes)
    ready = torch.cat([batches.block(start) for start in batches.starts]).double()
    label = torch.from_numpy(data.code)
    n, n_classes, size = len(label), len(data.classes), settings.batch
    k = max(1, settings.cross_fit)
    out = np.empty((settings.n_seeds, settings.epochs, n, n_classes))
    norms = np.empty((settings.n_seeds, n))
    for seed in range(settings.n_seeds):
        folds = np.full(n, -1) if k == 1 else assign_folds(data.hashes, data.code, k, settings.seed, seed)
        fold = torch.from_numpy(folds.astype(np.int64))
        for own in range(k):
            chosen = {"hidden": settings.hidden, "seed": settings.seed, "momentum": 0, "device": CPU}
            group = make_group(settings.kind, [seed], settings.cross_fit, x.shape[1], n_classes, **chosen)
            rates = (
                [1.0, 1.0]
                if settings.kind == "linear"
                else [1.0, 1.0] + [2 * x.shape[1] / settings.hidden] * 2
            )
            parameters = [p.detach().double().requires_grad_() for p in weights(group, own)]
            velocity = [torch.zeros_like(p) for p in parameters]
            for epoch in range(settings.epochs):
                for _, places in batches.shuffled(settings.seed, epoch + 1):
                    for start in range(0, len(places), size):
                        rows = torch.from_numpy(places[start : start + size])
                        rows = rows[fold[rows] != own]
                        grads = gradients(ready[rows], label[rows], parameters)
                        step = settings.rate / (batches.mean_square * size * (1 - 1 / k if k > 1 else 1))
                        velocity = [
                            0.9 * v + step * r * g for v, g, r in zip(velocity, grads, rates, strict=True)
                        ]
                        parameters = [
                            (p - v).detach().requires_grad_()
                            for p, v in zip(parameters, velocity, strict=True)
                        ]
                mine = (fold == own) | (k == 1)
                out[seed, epoch, mine] = forward(ready[mine], parameters).detach().numpy()
            for row in np.flatnonzero(mine):
                grads = gradients(ready[row : row + 1], label[row : row + 1], parameters)
                norms[seed, row] = sum(float(g.square().sum()) for g in grads) ** 0.5
    return data, out, norms


@pytest.mark.parametrize(
    ("kind", "folds"), [("linear", 0), ("linear", 3), ("folded", 3), ("mlp", 0), ("mlp", 3)]
)
def test_all_at_once_is_one_model_after_the_other(kind, folds, monkeypatch):
    if kind == "folded":
        kind = "linear"
        monkeypatch.setattr(factory, "blocks_are_wide", lambda n_folds, n_classes: True)
    monkeypatch.setattr(rows, "BLOCK", 64)
    x, labels, _ = clusters(150)
    settings = HeadSettings(
        kind=kind, hidden=16, n_seeds=2, epochs=3, cross_fit=folds, batch=25, look_rows=50
    )
    got = train_heads(ArrayRows(x), names(150), labels, settings)
    data, z, norms = plain(x, names(150), labels, settings)
    label = data.code
    close = {"rtol": 2e-4, "atol": 2e-5}

    def by_epoch(function):
        return np.array([[function(one, label) for one in seed] for seed in z])

    at = data.rows
    np.testing.assert_allclose(got.el2n[at], el2n(z[:, -1], label, of="logits"), **close)
    np.testing.assert_allclose(got.loss[at], np.mean([loss(one, label) for one in z[:, -1]], axis=0), **close)
    spread = np.std([el2n(one, label, of="logits") for one in z[:, -1]], axis=0, ddof=1)
    np.testing.assert_allclose(got.el2n_std[at], spread, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(got.grand[at], norms.mean(axis=0), **close)
    np.testing.assert_allclose(got.neg_aum[at], dynamics.neg_aum(by_epoch(margin_logit)), **close)
    right = by_epoch(lambda one, y: one.argmax(1) == y)
    np.testing.assert_array_equal(got.forgetting[at], dynamics.forgetting(right))
    np.testing.assert_allclose(got.early_agreement[at], dynamics.early_agreement(by_epoch(p_label)), **close)
    np.testing.assert_array_equal(
        got.pred_label[at], softmax(z[:, -1].reshape(-1, 3)).reshape(2, -1, 3).sum(0).argmax(1)
    )
    np.testing.assert_allclose(got.accuracy, right[:, -1].mean(axis=1))
    np.testing.assert_allclose(got.el2n_by_seed[1], el2n(z[1, -1], label, of="logits"), **close)
    assert (got.n_obs == 2).all() and (got.status == 0).all()


def test_seeds_at_once_are_separate_runs():
    x, labels, _ = clusters()
    for kind in ("linear", "mlp"):
        settings = {"kind": kind, "hidden": 16, "epochs": 2, "cross_fit": 2, "batch": 50}
        together = train_heads(ArrayRows(x), names(300), labels, HeadSettings(n_seeds=3, **settings))
        for seed in range(3):
            alone = HeadSettings(n_seeds=1, first_seed=seed, **settings)
            one = train_heads(ArrayRows(x), names(300), labels, alone)
            np.testing.assert_allclose(together.el2n_by_seed[seed], one.el2n_by_seed[0], rtol=1e-4, atol=1e-5)
            assert np.isnan(one.el2n_std).all() and (one.n_obs == 1).all()
        assert together.el2n_std.min() > 0


def test_scored_epochs_are_averaged():
    x, labels, _ = clusters(120)
    settings = {"kind": "linear", "n_seeds": 2, "cross_fit": 0, "batch": 30}
    one, two = (
        train_heads(ArrayRows(x), names(120), labels, HeadSettings(epochs=n, **settings)) for n in (1, 2)
    )
    both = train_heads(
        ArrayRows(x), names(120), labels, HeadSettings(epochs=2, score_epochs=(1, 2), **settings)
    )
    np.testing.assert_allclose(both.el2n, (one.el2n + two.el2n) / 2, rtol=1e-5)
    assert (both.n_obs == 4).all()


def test_folds_are_disjoint_stratified_and_differ_by_seed():
    hashes = row_hashes(names(1000), 0)
    code = np.repeat(np.arange(4), [7, 13, 480, 500])
    folds = [assign_folds(hashes, code, 5, 0, seed) for seed in range(3)]
    for fold in folds:
        for one in range(4):
            sizes = np.bincount(fold[code == one], minlength=5)
            assert sizes.max() - sizes.min() <= 1 and sizes.sum() == (code == one).sum()
    assert 0.1 < np.mean(folds[0] == folds[1]) < 0.3
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(assign_folds(hashes[order], code[order], 5, 0, 0), folds[0][order])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_label_never_reaches_its_own_prediction(kind, monkeypatch):
    def by_row(hashes, code, n_folds, seed, model_seed):
        return (mix(hashes, model_seed, "fixed") % np.uint64(n_folds)).astype(np.uint8)

    monkeypatch.setattr(training, "assign_folds", by_row)
    x, labels, _ = clusters(200)
    settings = HeadSettings(kind=kind, hidden=16, n_seeds=1, epochs=3, cross_fit=4, batch=32)
    before = train_heads(ArrayRows(x), names(200), labels, settings)
    fold = by_row(row_hashes(names(200), 0), None, 4, 0, 0)
    other = list(labels)
    other[17] = next(label for label in sorted(set(labels)) if label != labels[17])
    after = train_heads(ArrayRows(x), names(200), other, settings)
    own = fold == fold[17]
    # entropy knows no label but for the order of its sum
    np.testing.assert_allclose(before.entropy[own], after.entropy[own], rtol=1e-6)
    np.testing.assert_array_equal(before.pred_label[own], after.pred_label[own])
    assert (abs(before.entropy[~own] / after.entropy[~own] - 1) > 1e-6).all()
    assert before.el2n[17] != after.el2n[17]


def test_flipped_labels_are_found():
    figures = []
    for seed in range(3):
        x, labels, wrong = clusters(2000, 32, 10, seed=seed)
        got = train_heads(ArrayRows(x), names(2000), labels, HeadSettings(kind="linear"))
        n = 200
        hardest = np.argsort(-got.el2n)
        kept = np.argsort(-got.neg_aum)[n:]
        after = kept[np.argsort(-got.el2n[kept])[:n]]
        places = np.empty(2000)
        places[hardest] = np.arange(2000, 0, -1)
        auroc = (places[wrong].mean() - (n + 1) / 2) / (2000 - n)
        figures.append((auroc, wrong[hardest[:n]].mean(), wrong[after].mean(), got.reliability_of_mean))
    auroc, found, left, reliable = np.array(figures).T
    assert auroc.min() > 0.95 and found.min() > 0.8 and left.max() < 0.2 and reliable.min() > 0.9


# What must not change a result


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The same 300 vectors as one part, and as three parts in another row order."""
    folder = tmp_path_factory.mktemp("parts")
    x, labels, _ = clusters(300)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    uids, order = names(300), np.random.default_rng(5).permutation(300)
    write_part(folder / "one.arrow", [Vectors(uids, x)], 8, "stamp", text=False)
    for number, at in enumerate(np.split(order, [20, 150])):
        piece = Vectors([uids[row] for row in at], x[at])
        write_part(folder / f"{number}.arrow", [piece], 8, "stamp", text=False)
    one = PartRows([EmbeddingPart(folder / "one.arrow")])
    three = PartRows([EmbeddingPart(folder / f"{number}.arrow") for number in range(3)])
    return x, labels, one, three, order


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_shards_order_memory_and_workers_change_no_bit(parts, kind, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 128)
    x, labels, one, three, order = parts
    settings = {"kind": kind, "hidden": 16, "n_seeds": 4, "epochs": 2, "batch": 32}
    want = train_heads(one, one.uids(), labels, HeadSettings(workers=1, **settings))
    got = train_heads(one, one.uids(), labels, HeadSettings(workers=3, memory=0, **settings))
    same(got, want)
    moved = [labels[row] for row in order]
    with fixed_threads(2):
        got = train_heads(three, three.uids(), moved, HeadSettings(workers=2, memory=0, **settings))
        assert torch.get_num_threads() == 2
    for name, values in columns(want).items():
        np.testing.assert_array_equal(getattr(got, name), values[order], err_msg=name)
    np.testing.assert_array_equal(got.el2n_by_seed, want.el2n_by_seed)
    held = train_heads(ArrayRows(x), names(300), labels, HeadSettings(**settings))
    same(held, want, rtol=1e-4, atol=1e-5)


def test_part_rows_read_what_was_stored(parts):
    x, _, one, three, order = parts
    at = np.array([299, 0, 17, 151, 17])
    np.testing.assert_array_equal(three.take(at), one.take(order[at]))
    np.testing.assert_allclose(one.take(at), x[at], atol=1e-3)
    assert len(three) == 300 and list(three.uids())[:2] == [f"row {order[0]}", f"row {order[1]}"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_batches_of_looking_change_nothing_that_counts(kind):
    x, labels, _ = clusters(65)
    settings = {"kind": kind, "hidden": 16, "n_seeds": 2, "epochs": 2, "batch": 32}
    got = [
        train_heads(ArrayRows(x), names(65), labels, HeadSettings(look_rows=n, **settings))
        for n in (1, 7, 64)
    ]
    assert statuses(got[2]) == ["ok"] * 65
    for other in got[:2]:
        same(other, got[2], rtol=2e-5, atol=2e-5)


def test_threads_of_a_worker_are_one():
    seen = []
    with fixed_threads(), training.spread_over(2, CPU) as each:

        def job(index):
            seen.append(torch.get_num_threads())
            yield

        each(job, 4)
    assert seen == [1] * 4


def test_standardised_rows_have_mean_zero_and_deviation_one(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 100)
    x, _, _ = clusters(350)
    x[:, 3] = 0.0
    order = np.random.default_rng(0).permutation(350)
    batches = Batches(ArrayRows(x), order, row_hashes(names(350), 0)[order], memory=0)
    ready = torch.cat([batches.block(start) for start in batches.starts]).double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    deviation = unit.std(axis=0)
    deviation[3] = 1.0
    np.testing.assert_allclose(ready, ((unit - unit.mean(axis=0)) / deviation)[order], atol=2e-5)
    assert batches.mean_square == 7
    for epoch in (1, 2):
        passed = np.concatenate([places for _, places in batches.shuffled(0, epoch)])
        assert sorted(passed.tolist()) == list(range(350))


# The edges


def statuses(result):
    return status_names(result.status).tolist()


def test_what_cannot_be_scored_has_a_status_and_no_number():
    x, labels, _ = clusters(60)
    labels = list(labels)
    labels[0] = None
    labels[1:4] = ["rare"] * 3
    x[4], x[5] = 0.0, np.nan
    settings = HeadSettings(kind="linear", n_seeds=2, epochs=1, cross_fit=5)
    got = train_heads(ArrayRows(x), names(60), labels, settings)
    assert statuses(got)[:6] == ["no_label"] + ["class_too_small"] * 3 + ["zero_norm", "nonfinite"]
    assert set(statuses(got)[6:]) == {"ok"} and got.classes == ["class 0", "class 1", "class 2"]
    for values in columns(got).values():
        assert np.isnan(values[:6]).all() and np.isfinite(values[6:]).all()
    assert (got.n_obs[:6] == 0).all() and (got.pred_label[:6] == -1).all()
    good = slice(6, None)
    rest = train_heads(ArrayRows(x[good]), names(60)[good], labels[good], settings)
    np.testing.assert_array_equal(rest.el2n, got.el2n[good])


@pytest.mark.parametrize("labels", [["a"] * 30, [None] * 30, ["a"] * 28 + ["b"] * 2, []])
def test_one_class_or_none_gives_no_scores(labels):
    x = np.random.default_rng(0).standard_normal((len(labels), 4))
    got = train_heads(ArrayRows(x), names(len(labels)), labels)
    words = {"single_class", "no_label", "class_too_small"}
    assert set(statuses(got)) <= words and np.isnan(got.el2n).all() and len(got.el2n) == len(labels)
    assert np.isnan(got.reliability)


def test_labels_get_codes_in_sorted_order():
    codes, classes = encode_labels(["b", None, "a", "b"])
    assert codes.tolist() == [1, -1, 0, 1] and classes == ["a", "b"]
    assert encode_labels([10, 2, 0])[1] == [0, 2, 10]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"epochs": 0}, "heads.epochs must be at least 1, got 0: .*GraNd at initialisation"),
        ({"epochs": 2, "score_epochs": (3,)}, r"score_epochs must be in \[1, 2\]"),
        ({"cross_fit": 1}, "cross_fit must be 0 or in"),
        ({"kind": "tree"}, "kind must be linear or mlp, got 'tree'"),
        ({"normalise": "none"}, "normalise must be"),
        ({"rate": 0.0}, "rate must be > 0"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"n_seeds": 0}, "n_seeds must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(values, match):
    with pytest.raises(RecipeError, match=match):
        HeadSettings(**values)


def test_wrong_input_is_refused():
    x, labels, _ = clusters(20)
    with pytest.raises(CurateError, match="different uids, 19 uids"):
        train_heads(ArrayRows(x), ["same"] * 20, labels)
    with pytest.raises(CurateError, match="one uid per vector, got 3 for 20"):
        train_heads(ArrayRows(x), names(3), labels)
    with pytest.raises(CurateError, match="one label per sample, got 19 for 20"):
        train_heads(ArrayRows(x), names(20), labels[1:])


def test_seeds_that_diverge_are_left_out(monkeypatch, caplog):
    x, labels, _ = clusters(60)
    settings = {"kind": "linear", "epochs": 2, "cross_fit": 0}
    made = training.make_group

    def broken(kind, seeds, *args, **named):
        group = made(kind, seeds, *args, **named)
        if 1 in seeds:
            group.w[:, list(seeds).index(1) * 3] = torch.nan
        return group

    want = train_heads(ArrayRows(x), names(60), labels, HeadSettings(n_seeds=1, **settings))
    monkeypatch.setattr(training, "make_group", broken)
    got = train_heads(ArrayRows(x), names(60), labels, HeadSettings(n_seeds=2, **settings))
    assert got.seeds == [0] and "seeds [1] left the finite numbers" in caplog.text
    same(got, want)
    with pytest.raises(CurateError, match="every seed left the finite numbers"):
        train_heads(ArrayRows(x), names(60), labels, HeadSettings(n_seeds=1, first_seed=1, **settings))


# Heads that are given


def test_zero_shot_is_a_softmax_over_class_vectors():
    rng = np.random.default_rng(0)
    x, text = rng.standard_normal((50, 6)), rng.standard_normal((4, 6))
    classes, code = ["d", "a", "c", "b"], rng.integers(0, 4, 50)
    labels = [None if row == 7 else classes[one] for row, one in enumerate(code)]
    got = zero_shot(ArrayRows(x), names(50), labels, classes, text, scale=5.0)
    unit, words = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, text))
    z = 5.0 * unit @ words.T
    some = np.arange(50) != 7
    np.testing.assert_allclose(got.el2n[some], el2n(z, code, of="logits")[some], rtol=1e-5)
    np.testing.assert_allclose(got.grand[some], got.el2n[some], rtol=1e-5)
    np.testing.assert_allclose(got.neg_aum[some], -margin_logit(z, code)[some], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(got.pred_label[some], z.argmax(1)[some])
    assert statuses(got)[7] == "no_label" and (got.n_obs[some] == 1).all()
    assert (
        np.isnan(got.el2n_std).all()
        and np.isnan(got.forgetting).all()
        and np.isnan(got.early_agreement).all()
    )


def test_concepts_stand_in_for_labels():
    rng = np.random.default_rng(0)
    x, centroids = rng.standard_normal((40, 6)), rng.standard_normal((5, 6))
    own = (x @ (centroids / np.linalg.norm(centroids, axis=1, keepdims=True)).T).argmax(1)
    own[3] = -1
    got = score_concepts(ArrayRows(x), names(40), own, centroids, scale=20.0)
    np.testing.assert_array_equal(got.pred_label, own)
    assert statuses(got)[3] == "no_label" and got.accuracy.tolist() == [1.0]


def test_zero_shot_refuses_what_it_cannot_use():
    rows = ArrayRows(np.eye(3))
    with pytest.raises(CurateError, match="got 'z'"):
        zero_shot(rows, names(3), ["a", "b", "z"], ["a", "b"], np.eye(3)[:2])
    with pytest.raises(EmbeddingError, match="one vector of length 3 per class"):
        zero_shot(rows, names(3), ["a", "b", "b"], ["a", "b"], np.eye(2))
    with pytest.raises(EmbeddingError, match="not zero, class 'b'"):
        zero_shot(rows, names(3), ["a", "b", "b"], ["a", "b"], np.eye(3)[:2] * [[1], [0]])
    with pytest.raises(CurateError, match="scale"):
        zero_shot(rows, names(3), ["a", "b", "b"], ["a", "b"], np.eye(3)[:2], scale=np.inf)
    assert statuses(zero_shot(rows, names(3), ["a"] * 3, ["a"], np.eye(3)[:1])) == ["single_class"] * 3
