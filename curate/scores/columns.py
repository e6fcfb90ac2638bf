"""What every score column means: which way it points, which family computes it, and what that needs.

harder, noisier : a higher value is a harder sample, or a more doubtful label. easier, better : a higher value is
an easier sample, or a better pair. `hardest` and `easiest` follow this table, whatever the sign of a column.
"""

from typing import Literal, NamedTuple

__all__ = ["SCORES", "Direction", "Score", "columns_of", "hardest_is_largest"]

Direction = Literal["harder", "noisier", "easier", "better"]


class Score(NamedTuple):
    """One score: its column, what a higher value means, its family (the folder in 3_scores), what it needs."""

    column: str
    higher_is: Direction
    family: str
    needs: str


def _scores(family: str, needs: str, **columns: Direction) -> dict[str, Score]:
    return {name: Score(name, higher_is, family, needs) for name, higher_is in columns.items()}


_PAIR = "image and caption vectors of one model"
_HEADS = "image vectors and labels (or concepts in their place)"
_PIXELS = "images and labels"

SCORES: dict[str, Score] = {
    "distance": Score("distance", "harder", "", "concepts (it is in 2_concepts/assignments)"),
    **_scores("clip_score", _PAIR, clip_score="better"),
    **_scores(
        "pair", _PAIR, nce_i2t="harder", nce_t2i="harder", nce="harder", nce_norm="harder",
        neg_clip_loss="better", neg_clip_loss_norm="better", pair_el2n_i2t="harder", pair_el2n_t2i="harder",
        pair_grand="harder",
    ),
    **_scores(
        "heads", _HEADS, el2n="harder", el2n_std="harder", grand="harder", grand_std="harder", loss="harder",
        loss_std="harder", entropy="harder", neg_aum="harder", forgetting="harder", early_agreement="easier",
        p_label="easier",
    ),
    **_scores(
        "pixels", _PIXELS, pixels_el2n="harder", pixels_el2n_std="harder", pixels_grand="harder",
        pixels_grand_std="harder", pixels_loss="harder", pixels_loss_std="harder", pixels_entropy="harder",
        pixels_neg_aum="harder", pixels_forgetting="harder", pixels_early_agreement="easier",
        pixels_p_label="easier",
    ),
    **_scores("normsim", "vectors of a target set", normsim_inf="better", normsim_2="better"),
    **_scores(
        "noise", "losses, and image vectors for the linear detector", noise_small_loss="noisier",
        noise_linear="noisier", noise_prob="noisier",
    ),
    **_scores("color", "two columns of losses", color="better"),
}  # fmt: skip


def hardest_is_largest(higher_is: Direction) -> bool:
    """Return whether the hardest sample has the largest value.

    >>> hardest_is_largest("harder"), hardest_is_largest("better")
    (True, False)
    """
    return higher_is in ("harder", "noisier")


def columns_of(family: str) -> tuple[str, ...]:
    """Return the score columns of a family, in the order of its table.

    >>> columns_of("normsim")
    ('normsim_inf', 'normsim_2')
    """
    return tuple(score.column for score in SCORES.values() if score.family == family)
