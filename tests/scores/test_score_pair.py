import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import CurateError, RecipeError
from curate.hashing import hash_uids
from curate.scores.pair.formula import PairScores, batches, pair_scores, score_batch
from curate.scores.status import status_names

COLUMNS = PairScores._fields[:-1]


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def random_pairs(n, d=8, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    image = unit(rng.standard_normal((n, d)) + 1)
    return image, unit(image + noise * rng.standard_normal((n, d)))


def with_products(products):
    """Return image = identity and text = products.T: not unit rows, but any products one wants."""
    products = np.asarray(products, float)
    return np.eye(len(products), dtype=np.float32), products.T.astype(np.float32)


def by_definition(image, text, temperature, caption=None, picture=None):
    """All columns from the full matrix, row by row."""
    image, text = image.astype(float), text.astype(float)
    n, logits = len(image), image @ text.T / temperature
    out = {name: np.full(n, np.nan) for name in COLUMNS}
    alike = np.zeros((n, n), bool)
    for code in (caption, picture):
        if code is not None:
            alike |= (code[:, None] == code) & (code >= 0)
    for i in range(n):
        allowed = np.flatnonzero(~alike[i] | (np.arange(n) == i))
        if len(allowed) < 2:
            continue
        own = allowed.tolist().index(i)
        loss, el2n = [], []
        for values in (logits[i, allowed], logits[allowed, i]):
            p = np.exp(values - values.max())
            p /= p.sum()
            loss.append(values.max() + np.log(np.exp(values - values.max()).sum()) - values[own])
            el2n.append(np.linalg.norm(p - (np.arange(len(p)) == own)))
            if len(loss) == 1:
                gradient = (p @ text[allowed] - text[i]) / temperature
        nce = sum(loss) / 2
        norm = nce - np.log(len(allowed))
        row = [*loss, nce, norm, -temperature * nce, -temperature * norm, *el2n, np.linalg.norm(gradient)]
        for name, value in zip(COLUMNS, row, strict=True):
            out[name][i] = value
    return out


def check(got, want, **tolerance):
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(got, name), want[name], err_msg=name, **tolerance)
    np.testing.assert_array_equal(got.n_obs, np.isfinite(want["nce"]))


@given(
    st.integers(1, 24),
    st.sampled_from([0.01, 0.07, 1.0]),
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 30),
)
@settings(max_examples=60, deadline=None)
def test_tiles_by_definition(n, temperature, seed, tile, n_codes):
    image, text = random_pairs(n, seed=seed, noise=seed % 3)
    rng = np.random.default_rng(seed)
    caption, picture = rng.integers(-1, n_codes, (2, n)) if seed % 2 else (None, rng.integers(-1, n_codes, n))
    copies = {"caption": caption, "picture": picture}
    want = by_definition(image, text, temperature, **copies)
    exact = score_batch(
        image, text, temperature=temperature, grand=True, precision="float64", tile=tile, **copies
    )
    check(exact, want, rtol=1e-9, atol=1e-9)
    single = score_batch(image, text, temperature=temperature, grand=True, tile=tile, **copies)
    for name in ("nce_i2t", "nce_t2i", "nce", "nce_norm", "pair_el2n_i2t", "pair_el2n_t2i"):
        np.testing.assert_allclose(getattr(single, name), want[name], atol=1e-4, err_msg=name)
    for name in ("neg_clip_loss", "neg_clip_loss_norm"):
        np.testing.assert_allclose(
            getattr(single, name), want[name], atol=max(1e-6, 1e-5 * temperature), err_msg=name
        )
    np.testing.assert_allclose(single.pair_grand, want["pair_grand"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_real_tiles_equal_the_full_matrix(temperature):
    image, text = random_pairs(1100, 16, noise=0.3)
    caption = np.arange(1100) % 550
    want = by_definition(image, text, temperature, caption)
    got = score_batch(image, text, temperature=temperature, caption=caption, grand=True, precision="float64")
    check(got, want, rtol=1e-9, atol=1e-9)
    single = score_batch(image, text, temperature=temperature, caption=caption, grand=True)
    np.testing.assert_allclose(single.nce, want["nce"], atol=1e-4)
    np.testing.assert_allclose(single.neg_clip_loss, want["neg_clip_loss"], atol=1e-6)
    np.testing.assert_allclose(single.pair_grand, want["pair_grand"], rtol=1e-4, atol=1e-4)


def test_hand_values_of_two_pairs():
    pairs = with_products([[0.3, 0.1], [0.2, 0.4]])
    got = score_batch(*pairs, temperature=1.0, precision="float64")
    near = {"atol": 1e-6}
    np.testing.assert_allclose(got.nce_i2t, [0.598139, 0.598139], **near)
    np.testing.assert_allclose(got.nce_t2i, [0.644397, 0.554355], **near)
    np.testing.assert_allclose(got.nce, [0.621268, 0.576247], **near)
    np.testing.assert_allclose(got.pair_el2n_i2t, [0.636631, 0.636631], **near)
    np.testing.assert_allclose(got.pair_el2n_t2i, [0.671781, 0.601829], **near)
    got = score_batch(*pairs, temperature=0.1, precision="float64")
    np.testing.assert_allclose(got.nce_i2t, [0.126928, 0.126928], **near)
    np.testing.assert_allclose(got.nce_t2i, [0.313262, 0.048587], **near)
    np.testing.assert_allclose(got.nce, [0.220095, 0.087758], **near)
    np.testing.assert_allclose(got.neg_clip_loss, [-0.022009, -0.008776], **near)
    np.testing.assert_allclose(got.neg_clip_loss_norm, [0.047305, 0.060539], **near)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_hand_values(precision):
    got = score_batch(*with_products(np.eye(3)), temperature=1.0, precision=precision)
    np.testing.assert_allclose(got.nce, 0.551445, atol=1e-6)
    np.testing.assert_allclose(got.pair_el2n_i2t, 0.519149, atol=1e-6)
    constant = score_batch(*with_products(np.full((4, 4), 0.2)), temperature=1.0, precision=precision)
    np.testing.assert_allclose(constant.nce, 1.386294, atol=1e-6)
    np.testing.assert_allclose(constant.nce_norm, 0, atol=1e-6)
    twins = with_products([[0.3, 0.3, 0.1], [0.3, 0.3, 0.1], [0.1, 0.1, 0.3]])
    got = score_batch(*twins, temperature=0.01, precision=precision)
    np.testing.assert_allclose(got.nce, [0.693147, 0.693147, 0], atol=1e-5)
    got = score_batch(*twins, temperature=0.01, precision=precision, caption=np.array([7, 7, 8]))
    np.testing.assert_allclose(got.nce, [0, 0, 0], atol=1e-5)


def test_generic_caption_changes_places():
    products = np.full((11, 11), 0.1)
    np.fill_diagonal(products, 0.29)
    products[1:, 0] = 0.285
    products[0, 0] = 0.30
    got = score_batch(*with_products(products), temperature=0.01)
    assert np.diag(products).argmax() == 0 and got.neg_clip_loss.argmin() == 0
    np.testing.assert_allclose(got.neg_clip_loss, [-0.005864] + [-0.002370] * 10, atol=1e-6)
    np.testing.assert_allclose(got.neg_clip_loss_norm, [0.018115] + [0.021609] * 10, atol=1e-6)


def test_gradient_by_finite_differences():
    image, text = random_pairs(5, 4)
    image, text = image.astype(float), text.astype(float)

    def loss(i, moved):
        values = moved @ text.T / 0.1
        return np.log(np.exp(values - values.max()).sum()) + values.max() - values[i]

    got = score_batch(image, text, temperature=0.1, grand=True, precision="float64").pair_grand
    for i in range(5):
        steps = 1e-5 * np.eye(4)
        slope = [(loss(i, image[i] + e) - loss(i, image[i] - e)) / 2e-5 for e in steps]
        assert got[i] == pytest.approx(np.linalg.norm(slope), abs=1e-6)


def test_columns_that_were_not_asked_for():
    image, text = random_pairs(30)
    all_of_them = score_batch(image, text, temperature=0.05, grand=True)
    few = score_batch(image, text, temperature=0.05, el2n=False)
    assert few.pair_el2n_i2t is None and few.pair_el2n_t2i is None and few.pair_grand is None
    np.testing.assert_array_equal(few.nce, all_of_them.nce)
    hashes = np.arange(30, dtype=np.uint64)
    mean, _ = pair_scores(image, text, hashes, temperature=0.05, el2n=False)
    assert mean.pair_el2n_i2t is None and mean.pair_grand is None
    assert pair_scores(image, text, hashes, temperature=0.05, grand=True)[0].pair_grand.shape == (30,)


def test_constant_on_all_logits_changes_nothing():
    image, text = random_pairs(20)
    wide = [np.concatenate([x, np.ones((20, 1), np.float32)], axis=1) for x in (image, text)]
    for precision, near in (("float64", 1e-9), ("float32", 1e-5)):
        a = score_batch(image, text, temperature=0.05, precision=precision)
        b = score_batch(*wide, temperature=0.05, precision=precision)
        np.testing.assert_allclose(a.nce, b.nce, atol=near)
        np.testing.assert_allclose(a.pair_el2n_i2t, b.pair_el2n_i2t, atol=near)


def test_extreme_products_are_finite():
    products = np.full((6, 6), 0.99)
    got = score_batch(*with_products(products), temperature=0.01)
    np.testing.assert_allclose(got.nce, np.log(6), atol=1e-5)
    opposite = score_batch(*with_products(2 * np.eye(6) - 1), temperature=0.01, grand=True)
    assert all(np.isfinite(getattr(opposite, name)).all() for name in COLUMNS)
    np.testing.assert_allclose(opposite.nce_i2t, 5 * np.exp(-200.0), rtol=1e-5)
    assert (opposite.nce_i2t > 0).all(), "easy pairs keep their order"
    worst = score_batch(*with_products(1 - 2 * np.eye(2)), temperature=0.01, grand=True)
    np.testing.assert_allclose(worst.nce_i2t, 200, atol=1e-4)
    np.testing.assert_allclose(worst.pair_el2n_i2t, np.sqrt(2), atol=1e-6)


def test_far_apart_peaks_take_the_second_exponential():
    """Rows whose largest products differ by more than what one shift can carry."""
    rng = np.random.default_rng(1)
    products = rng.uniform(-1, 1, (40, 40)) * np.linspace(0.01, 1, 40)[:, None]
    pairs = with_products(products)
    want = by_definition(*pairs, 0.01)
    np.testing.assert_allclose(score_batch(*pairs, temperature=0.01).nce, want["nce"], atol=1e-4)
    for tile in ((3, 7), (40, 1), (1, 40)):
        got = score_batch(*pairs, temperature=0.01, precision="float64", tile=tile, grand=True)
        check(got, want, rtol=1e-9, atol=1e-9)


def test_no_negatives():
    one = score_batch(*with_products([[0.3]]), temperature=1.0, grand=True)
    assert all(np.isnan(getattr(one, name)).all() for name in COLUMNS) and one.n_obs.tolist() == [0]
    image, text = random_pairs(4)
    masked = score_batch(image, text, temperature=1.0, caption=np.zeros(4, int), grand=True)
    assert all(np.isnan(getattr(masked, name)).all() for name in COLUMNS)
    some = score_batch(
        image, text, temperature=1.0, caption=np.array([1, 1, 1, -1]), picture=np.array([1, -1, -1, 1])
    )
    assert np.isnan(some.nce).tolist() == [True, False, False, False]
    hashes = np.arange(4, dtype=np.uint64)
    got, status = pair_scores(image, text, hashes, temperature=1.0, caption=np.array([5, 5, 5, 5]))
    assert set(status_names(status)) == {"no_negatives"} and np.isnan(got.nce).all()


def test_codes_may_be_unsigned_hashes():
    image, text = random_pairs(6)
    large = np.array([1, 2, 2, 3, 3, 3], np.uint64) * np.uint64(1 << 62)
    small = np.array([1, 2, 2, 3, 3, 3])
    a = score_batch(image, text, temperature=0.1, caption=large)
    np.testing.assert_array_equal(a.nce, score_batch(image, text, temperature=0.1, caption=small).nce)


@pytest.mark.parametrize(("n", "batch"), [(0, 4), (1, 4), (4, 4), (5, 4), (9, 4), (100, 7), (3, 1)])
def test_batches_are_of_equal_size(n, batch):
    dealt = list(batches(hash_uids(map(str, range(n)), 0), batch, 3))
    for repeat in range(3):
        mine = [rows for r, rows in dealt if r == repeat]
        sizes = [len(rows) for rows in mine]
        assert len(sizes) == -(-n // batch) and max(sizes, default=0) <= batch
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        assert sorted(np.concatenate([*mine, []])) == list(range(n))
    if n == 100:
        orders = {tuple(np.concatenate([rows for r, rows in dealt if r == k]).tolist()) for k in range(3)}
        assert len(orders) == 3


def test_odd_row_out_is_no_outlier():
    """N = B k + 1: every row has about the same loss, wherever it falls."""
    n = 129
    image, text = random_pairs(n, 64, noise=0.0)
    hashes = hash_uids(map(str, range(n)), 3)
    got, status = pair_scores(image, text, hashes, temperature=1.0, batch=32)
    assert (status == 0).all() and np.ptp(got.nce_norm) < 0.2
    assert {len(rows) for _, rows in batches(hashes, 32)} == {25, 26}


@given(st.integers(0, 40), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_mean_over_repeats_by_definition_and_in_any_row_order(n, seed):
    rng = np.random.default_rng(seed)
    image, text = random_pairs(n, seed=seed)
    hashes = hash_uids((f"row {i}" for i in range(n)), seed)
    caption, picture = rng.integers(0, 6, (2, n))
    has_text = rng.random(n) > 0.1
    image[rng.random(n) < 0.1] = np.nan
    text[rng.random(n) < 0.1] = 0
    more = {"temperature": 0.1, "batch": 6, "repeats": 3, "grand": True, "precision": "float64"}
    got, status = pair_scores(
        image, text, hashes, has_text=has_text, caption=caption, picture=picture, **more
    )
    usable = has_text & np.isfinite(image).all(1) & text.any(1)
    rows = np.flatnonzero(usable)
    values = [[[] for _ in range(n)] for _ in COLUMNS]
    for _, places in batches(hashes[rows], 6, 3):
        at = rows[places]
        for column, part in zip(
            values, by_definition(image[at], text[at], 0.1, caption[at], picture[at]).values(), strict=True
        ):
            for i, value in zip(at, part, strict=True):
                if np.isfinite(value):
                    column[i].append(value)
    for name, column in zip(COLUMNS, values, strict=True):
        want = [np.mean(v) if v else np.nan for v in column]
        np.testing.assert_allclose(getattr(got, name), want, rtol=1e-9, atol=1e-9, err_msg=name)
    assert got.n_obs.tolist() == [len(v) for v in values[0]]
    names = status_names(status)
    for i in range(n):
        if usable[i]:
            assert names[i] == ("ok" if got.n_obs[i] else "no_negatives")
        elif np.isnan(image[i]).any():
            assert names[i] == "nonfinite"
        else:
            assert names[i] == ("zero_norm" if has_text[i] else "no_text")
    moved = rng.permutation(n)
    again, codes = pair_scores(
        image[moved],
        text[moved],
        hashes[moved],
        has_text=has_text[moved],
        caption=caption[moved],
        picture=picture[moved],
        **more,
    )
    np.testing.assert_array_equal(again.nce, got.nce[moved])
    np.testing.assert_array_equal(again.pair_grand, got.pair_grand[moved])
    np.testing.assert_array_equal(codes, status[moved])


def test_memory_is_that_of_a_tile():
    image, text = random_pairs(3000, 8)
    codes = np.zeros(3000, int)
    codes[:100] = np.arange(100)
    tracemalloc.start()
    score_batch(image, text, temperature=0.01, caption=codes, picture=np.arange(3000) % 7, grand=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20  # the matrix alone would be 36 MB, the list of its copies 200 MB


def test_refuses():
    image, text = random_pairs(3)
    for temperature in (0, -1, np.nan, np.inf):
        with pytest.raises(RecipeError, match=r"score\.pair\.temperature must be > 0 and finite, got"):
            score_batch(image, text, temperature=temperature)
    with pytest.raises(
        CurateError, match=r"image and text must be \(n, d\) alike, got \(3, 8\) and \(2, 8\)"
    ):
        score_batch(image, text[:2], temperature=1.0)
    with pytest.raises(CurateError, match=r"a column of 3 pairs must be \(3,\), got \(2,\)"):
        score_batch(image, text, temperature=1.0, caption=np.zeros(2, int))
    with pytest.raises(RecipeError, match="precision must be float32 or float64, got 'half'"):
        score_batch(image, text, temperature=1.0, precision="half")
    for batch, repeats in ((0, 1), (1, 0)):
        with pytest.raises(RecipeError, match="batch and repeats must be at least 1"):
            list(batches(np.arange(3, dtype=np.uint64), batch, repeats))
