"""Matrix products that cost less than those of float32: they propose, and what they propose is checked or averaged out."""

from curate.products.processor import Precision, fast_precisions
from curate.products.threads import TILE_ROWS, each_tile, for_rows, one_thread
from curate.products.whole import WholeProducts, largest_whole

__all__ = [
    "TILE_ROWS",
    "Precision",
    "WholeProducts",
    "each_tile",
    "fast_precisions",
    "for_rows",
    "largest_whole",
    "one_thread",
]
