"""Devices that models run on: which there are, how batches get there, and what torch is set to while they are computed."""

import contextlib
import threading
from collections.abc import Iterator

import torch

from curate.errors import ModelError

__all__ = ["devices_of", "enough_memory", "exact_convolutions", "moved", "one_thread", "usable_device"]

_NO_MEMORY = (
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "mps backend out of memory",
)


def devices_of(asked: str) -> list[str]:
    """Return the devices that are asked for, the first one first; raises ModelError for one that cannot be used.

    >>> devices_of("cpu, cpu")
    ['cpu', 'cpu']
    """
    found = [usable_device(one, "embed.device") for one in asked.split(",")]
    if len({one.split(":")[0] for one in found}) > 1:
        raise ModelError(f"embed.device must be one kind of device, got {asked!r}")
    return found


def usable_device(device: str, setting: str) -> str:
    """Return a device, `auto` as what it means here: CUDA where there is one; raises ModelError naming `setting`."""
    device = device.strip()
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{setting} {device!r} cannot be used: {reason}") from error
    return device


def moved(batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a batch on a device; to a GPU from pinned memory, which is copied while earlier batches are computed."""
    if device.type == "cuda":
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


@contextlib.contextmanager
def enough_memory(model: str, device: str, batch_size: int) -> Iterator[None]:
    """Raise ModelError with what to do where a device has too little memory: batches keep their size, and so do vectors."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError, and what CUDA's libraries say in words
        said = str(error).lower()
        if not isinstance(error, torch.OutOfMemoryError) and not any(words in said for words in _NO_MEMORY):
            raise
        raise ModelError(
            f"{model} ran out of memory on {device} with embed.batch_size {batch_size}; set a smaller one (vectors are then "
            "made anew), or another embed.device"
        ) from error


_thread_lock = threading.Lock()
_thread_users: list[int] = []  # one entry per running `one_thread`; the first is what to go back to


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch's CPU kernels on the calling thread alone, also in other threads that are inside of this."""
    with _thread_lock:
        _thread_users.append(_thread_users[0] if _thread_users else torch.get_num_threads())
        torch.set_num_threads(1)  # of this thread, and of threads that have not used torch yet
    try:
        yield
    finally:
        with _thread_lock:
            before = _thread_users.pop()
            if not _thread_users:  # part of the setting is global: the last one out puts it back
                torch.set_num_threads(before)


_convolution_lock = threading.Lock()
_convolution_users: list[tuple[bool, bool, bool]] = []  # as for `one_thread`: the first is what to go back to


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Let cuDNN choose the same kernels every time and keep all digits of float32, which it rounds to 10 bits otherwise."""
    cudnn = torch.backends.cudnn
    with _convolution_lock:
        now = (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32)
        _convolution_users.append(_convolution_users[0] if _convolution_users else now)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, False
    try:
        yield
    finally:
        with _convolution_lock:
            before = _convolution_users.pop()
            if not _convolution_users:
                cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before
