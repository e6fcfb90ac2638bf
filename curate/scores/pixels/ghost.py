"""The length of each sample's gradient in all weights, from one batched backward pass.

No gradient of a weight is summed over the batch and none is kept per sample: a layer's share follows from its inputs
and the gradients at its outputs (Goodfellow 2015, arXiv:1510.01799; for many positions Li et al. 2021,
arXiv:2110.05679).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from curate.errors import ModelError

__all__ = ["gradient_norms"]

#: One layer: the module, its input, its output, and the version of the output when it was made.
Call = tuple[nn.Module, torch.Tensor, torch.Tensor, int]


def gradient_norms(
    model: nn.Module, inputs: torch.Tensor, label: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (logits (B, C), norms (B,) float64) of the gradient of each row's cross-entropy in all parameters.

    model : in eval mode, of Conv2d, Linear, BatchNorm2d and layers without parameters, none of which writes over
    its input or is used twice; anything else raises ModelError. Costs about one forward and backward pass.
    """
    if model.training:
        raise ModelError("the model must be in eval mode: batch statistics tie the samples together")
    with torch.enable_grad(), _frozen(model), _recorded(model) as calls:
        logits = model(inputs.detach().requires_grad_())
        loss = functional.cross_entropy(logits, label, reduction="sum")
        outputs = [output for _, _, output, _ in calls]
        deltas = torch.autograd.grad(loss, outputs)
    total = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
    for (module, value, output, version), delta in zip(calls, deltas, strict=True):
        if output._version != version:
            raise ModelError(f"{type(module).__name__}: its output was written over; use ReLU(inplace=False)")
        total += _SHARES[type(module)](module, value, delta)
    return logits.detach(), total.clamp_min(0.0).sqrt()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Let autograd skip the gradients of weights: they are not needed."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[Call]]:
    calls: list[Call] = []

    def record(module: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if any(module is seen for seen, *_ in calls):
            raise ModelError(f"{type(module).__name__}: a layer that is used twice has no separate gradients")
        calls.append((module, given[0].detach(), output, output._version))

    handles = []
    for name, module in model.named_modules():
        if not list(module.parameters(recurse=False)):
            continue
        _check(name, module)
        handles.append(module.register_forward_hook(record))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _check(name: str, module: nn.Module) -> None:
    if type(module) not in _SHARES:
        known = ", ".join(sorted(kind.__name__ for kind in _SHARES))
        raise ModelError(f"layer {name!r} must be one of {known}, got {type(module).__name__}")
    if isinstance(module, nn.Conv2d) and (
        module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        raise ModelError(f"layer {name!r}: groups must be 1 and the padding zeros, by number")
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
        raise ModelError(f"layer {name!r} must keep running statistics")


def _products(inner: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    """Return ||sum_t outer_t inner_t^T||^2 of each row, by the cheaper of two ways.

    inner (B, D, T), outer (B, P, T): the gradient itself costs T D P, the products between positions T T (D + P).
    """
    (_, d, t), p = inner.shape, outer.shape[1]
    if t * (d + p) < d * p:
        gram = torch.bmm(inner.transpose(1, 2), inner).mul_(torch.bmm(outer.transpose(1, 2), outer))
        return gram.sum(dim=(1, 2), dtype=torch.float64)
    return _squares(torch.bmm(outer, inner.transpose(1, 2)))


def _squares(value: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=torch.float64)
    return norms.square()


def _conv(module: nn.Module, value: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    assert isinstance(module, nn.Conv2d)
    outer = delta.flatten(2)
    if module.kernel_size == (1, 1) and module.padding == (0, 0):
        inner = value[:, :, :: module.stride[0], :: module.stride[1]].flatten(2)
    else:
        inner = _windows(module, value, delta.shape[2], delta.shape[3])
    share = _products(inner, outer) if module.weight is not None else 0.0
    bias = _squares(outer.sum(dim=2)) if module.bias is not None else 0.0
    return torch.as_tensor(share + bias)


def _windows(module: nn.Conv2d, value: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return what each output position sees, (B, D, T), in one copy: `unfold` waits for its threads at every row."""
    up, left = int(module.padding[0]), int(module.padding[1])
    value = functional.pad(value, (left, left, up, up)).contiguous()
    n, channels = value.shape[:2]
    (down, right), (down_in, right_in) = module.stride, module.dilation
    per_row, per_channel, per_line, _ = value.stride()
    view = value.as_strided(
        (n, channels, *module.kernel_size, height, width),
        (per_row, per_channel, per_line * down_in, right_in, per_line * down, right),
    )
    return view.reshape(n, -1, height * width)


def _linear(module: nn.Module, value: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    bias = 1.0 if module.bias is not None else 0.0
    if value.dim() == 2:
        return _squares(delta) * (_squares(value) + bias)
    inner, outer = (x.flatten(1, -2).transpose(1, 2) for x in (value, delta))
    return _products(inner, outer) + bias * _squares(outer.sum(dim=2))


def _batch_norm(module: nn.Module, value: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    assert isinstance(module, nn.BatchNorm2d)
    assert module.running_mean is not None and module.running_var is not None
    factor = (module.running_var + module.eps).rsqrt()
    shift = _squares(delta.sum(dim=(2, 3)))
    along = (delta * value).sum(dim=(2, 3)) - module.running_mean * delta.sum(dim=(2, 3))
    return _squares(along * factor) + shift


_SHARES: dict[type[nn.Module], Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.BatchNorm2d: _batch_norm,
}
