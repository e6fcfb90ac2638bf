"""Kind `adapter`: two linear maps over vectors that are there, which begin as the identity (Fang et al. 2023, 2309.17425).

A picture's vector x becomes the normalised ``x + alpha (W x + b)`` with W and b from zero, captions likewise: at the start
the filter is the model it stands on, and weight decay draws it back there. On small sets what keeps it from learning rows
by heart are noise on the vectors, weight decay, and held-out rows that say which epoch is best.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from curate.training.batches import epoch_batches
from curate.training.loop import Course, Curve, Loss, fit
from curate.training.losses import best_scale_loss, info_nce

__all__ = ["Adapter", "adapter_loss", "train_adapter"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Adapter(torch.nn.Module):
    """Two residual linear maps and a scale. weight, bias : of an adapter to go on from."""

    def __init__(self, dim: int, scale: float, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.image, self.text = (torch.nn.Parameter(torch.zeros(dim, dim)) for _ in range(2))
        self.image_bias, self.text_bias = (torch.nn.Parameter(torch.zeros(dim)) for _ in range(2))
        self.log_scale = torch.nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both as unit rows, moved."""
        image = image + self.alpha * (image @ self.image.T + self.image_bias)
        text = text + self.alpha * (text @ self.text.T + self.text_bias)
        return functional.normalize(image, dim=1), functional.normalize(text, dim=1)


def adapter_loss(model: Adapter, image: Floats, text: Floats, noise: float, device: str) -> Loss:
    """Return the loss of a batch, as a function of its rows (b,) among image and text, (n, d) unit rows, and of a key.

    noise : the length of the Gaussian noise that is added to vectors of length 1, drawn by the key.
    """
    pictures, captions = (torch.from_numpy(rows) for rows in (image, text))
    spread = noise / math.sqrt(image.shape[1])

    def loss(rows: Ints, key: int) -> torch.Tensor:
        chosen = torch.from_numpy(rows)
        x, y = pictures[chosen], captions[chosen]
        if spread:
            draw = np.random.Generator(np.random.Philox(key=key))
            x, y = (v + spread * torch.from_numpy(draw.standard_normal(v.shape, np.float32)) for v in (x, y))
        u, v = model(x.to(device), y.to(device))
        return info_nce(u, v, model.log_scale.exp())

    return loss


def train_adapter(
    model: Adapter, uids: list[str], image: Floats, text: Floats, held: npt.NDArray[np.bool_], course: Course,
    *, batch: int, hard: float, noise: float, progress: object = None,
) -> Curve:  # fmt: skip
    """Train an adapter in place and return its curve.

    image, text : (n, d) unit rows. held : (n,) which rows are not trained on but validate.
    """
    model.to(course.device)
    rows = np.flatnonzero(~held)
    names = [uids[row] for row in rows.tolist()]
    given = image[rows], text[rows]

    def batches_of(epoch: int) -> list[Ints]:
        return epoch_batches(names, batch, course.seed, epoch, hard=hard, image=given[0], text=given[1])

    apart = [torch.from_numpy(some[held]).to(course.device) for some in (image, text)]

    def validate() -> float:
        with torch.no_grad():
            blocks = zip(*(one.split(batch) for one in model(*apart)), strict=True)
            return float(np.mean([best_scale_loss(*block) for block in blocks]))

    loss = adapter_loss(model, *given, noise, course.device)
    more = {} if progress is None else {"progress": progress}
    return fit(model, loss, batches_of, course, validate=validate if held.any() else None, **more)  # type: ignore[arg-type]
