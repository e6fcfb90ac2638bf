import numpy as np
import pytest

from curate.errors import CurateError, UsageError
from curate.scores.color import color
from curate.scores.registry import families


def test_by_hand():
    found = color(np.array([3.2, 2.0, 4.0]), np.array([3.0, 2.1, 3.0]))
    np.testing.assert_allclose(found, [0.2, -0.1, 1.0], atol=1e-12)


def test_is_the_difference_in_float64():
    rng = np.random.default_rng(0)
    prior, conditional = rng.gamma(2, 1, (2, 50)).astype(np.float32)
    want = [float(a) - float(b) for a, b in zip(prior, conditional, strict=True)]
    assert color(prior, conditional).tolist() == want


def test_what_is_not_finite_has_none():
    wrong = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert np.isnan(color(wrong, np.ones(4))).tolist() == [True, True, True, False]
    assert np.isnan(color(np.ones(4), wrong)).tolist() == [True, True, True, False]
    assert np.isnan(color(np.array([np.inf]), np.array([np.inf]))).all()
    assert color(np.empty(0), np.empty(0)).shape == (0,)


def test_refuses():
    with pytest.raises(CurateError, match=r"must be \(n,\) alike, got \(3,\) and \(2,\)"):
        color(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize(
    ("family", "losses"), [("color", ("prior", "conditional")), ("learnability", ("learner", "reference"))]
)
def test_one_loss_twice_is_refused(family, losses):
    one = families()[family].model_validate({"family": family, **dict.fromkeys(losses, "loss")})
    with pytest.raises(UsageError, match="are both loss, so that every value would be 0"):
        one.check_columns(lambda name, setting: None)
