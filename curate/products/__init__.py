"""Inner products that cost less than float32 ones and say how wrong they can be: they propose, and never decide."""

from curate.products.proposals import (
    TILE_ROWS,
    Precision,
    Proposals,
    each_tile,
    fast_precisions,
    largest_whole,
)

__all__ = ["TILE_ROWS", "Precision", "Proposals", "each_tile", "fast_precisions", "largest_whole"]
