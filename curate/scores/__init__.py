"""One number per sample: how hard, how noisy, how well matched. Pure: arrays in, arrays out."""

from curate.scores.columns import SCORES

__all__ = ["SCORES"]
