"""What the processes of a distributed training know of each other: how many there are, and the rows that all have."""

import torch
from torch import distributed

__all__ = ["gather", "world"]


def world(group: distributed.ProcessGroup | None = None) -> tuple[int, int]:
    """Return how many processes train together (or are in `group`), and the number of this one; (1, 0) where it is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1, 0
    return distributed.get_world_size(group), distributed.get_rank(group)


def gather(rows: torch.Tensor, group: distributed.ProcessGroup | None = None) -> tuple[torch.Tensor, slice]:
    """Return the rows of all processes, one process after the other, and where those of this one stand.

    rows : (n, ...) of floats; n may differ between processes, and be 0. Every process must call it as often. No
    gradient goes through. Costs two small messages; the second is as long as the longest rows.

    >>> gather(torch.tensor([1.0, 2.0]))
    (tensor([1., 2.]), slice(0, 2, None))
    """
    n_ranks, rank = world(group)
    if n_ranks == 1:
        return rows.detach(), slice(0, len(rows))
    # gloo moves what is in main memory; every other backend moves what is on its own device.
    device = torch.device("cpu") if distributed.get_backend(group) == "gloo" else rows.device
    count = torch.tensor([len(rows)], dtype=torch.int64, device=device)
    counts = [torch.zeros_like(count) for _ in range(n_ranks)]
    distributed.all_gather(counts, count, group=group)
    sizes = [int(one) for one in torch.cat(counts).tolist()]
    padded = torch.zeros((max(sizes), *rows.shape[1:]), dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.detach()
    found = [torch.empty_like(padded) for _ in range(n_ranks)]
    if padded.numel():
        distributed.all_gather(found, padded, group=group)
    every = torch.cat([one[:size] for one, size in zip(found, sizes, strict=True)])
    start = sum(sizes[:rank])
    return every.to(rows.device), slice(start, start + sizes[rank])
