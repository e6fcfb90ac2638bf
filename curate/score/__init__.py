"""One number per sample: how hard, how noisy, how well matched. Pure: arrays in, arrays out."""

from curate.score.catalogue import SCORES

__all__ = ["SCORES"]
