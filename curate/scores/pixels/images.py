"""Decoded images as training reads them: gathered, cut into minibatches, shifted and mirrored."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from curate.errors import CurateError
from curate.scores.heads.folds import Ints

__all__ = ["Images", "augmented", "gather", "minibatches"]

Images = npt.NDArray[np.uint8]


def gather(images: Images | Iterable[Images], memory: int) -> Images:
    """Return all batches as one array; CurateError if they are no images of one size, or too many.

    What is one array already (mapped from a file, say) stays as it is, however large.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[3:] == (3,):
        return images
    held: list[Images] = []
    size = 0
    for batch in images:
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[3] != 3:
            raise CurateError(f"images must be uint8 of shape (n, H, W, 3), got {batch.dtype} {batch.shape}")
        if held and batch.shape[1:] != held[0].shape[1:]:
            raise CurateError(
                f"images must be of one size, got {batch.shape[1:3]} after {held[0].shape[1:3]}"
            )
        size += batch.nbytes
        if 2 * size > memory:  # once as batches, once in one piece
            raise CurateError(f"images need more than {memory:,} bytes; give more memory or smaller images")
        held.append(batch)
    return np.concatenate(held) if held else np.empty((0, 1, 1, 3), np.uint8)


def minibatches(order: Ints, size: int) -> Iterator[Ints]:
    """Yield minibatches; a last row alone joins the batch before, as batch norm cannot do with one."""
    start = 0
    while start < len(order):
        end = len(order) if len(order) - start <= size + 1 else start + size
        yield order[start:end]
        start = end


def augmented(x: torch.Tensor, random: npt.NDArray[np.uint64]) -> torch.Tensor:
    """Return images, (b, C, H, W), shifted by up to an eighth of their size and mirrored, as the numbers of their rows say."""
    n, _, height, width = x.shape
    up, left = height // 8, width // 8
    padded = functional.pad(x, (left, left, up, up))
    parts = [random & np.uint64(1), (random >> np.uint64(1)) % np.uint64(1 << 31) % np.uint64(2 * up + 1)]
    parts.append((random >> np.uint64(32)) % np.uint64(2 * left + 1))
    mirrored, down, right = (torch.from_numpy(part.astype(np.int64)).to(x.device) for part in parts)
    rows = down[:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = right[:, None] + torch.where(mirrored[:, None] == 1, columns.flip(1), columns)
    which = torch.arange(n, device=x.device)[:, None, None]
    return (
        padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
        .permute(0, 3, 1, 2)
        .contiguous()
    )
