"""Which precision `auto` stands for. Nothing heavy is imported: a run asks before any model is loaded.

Measured on a processor with AVX512_BF16 and AMX, one thread: ViT-B-32 embeds about four times as many images in a second
in bfloat16, with cosines to float32 above .999. Small models gain little, and the shipped one must give the same vectors
on every machine, so they stay in float32.
"""

from functools import cache
from pathlib import Path

__all__ = ["SMALL_MODEL_BYTES", "auto_precision", "is_small", "processor_has_bfloat16"]

#: Models whose weights take fewer bytes stay in float32 on a CPU: a twelfth of a ViT-B-32.
SMALL_MODEL_BYTES = 50_000_000

#: Any of these in the flags of an x86 processor: products of bfloat16 in hardware.
_FLAGS = {"avx512_bf16", "amx_bf16"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def auto_precision(model: str, pretrained: str | None, device: str) -> str:
    """Return the precision that `auto` means for a model on a device.

    Parameters
    ----------
    model, pretrained
        As in a recipe.
    device
        Where it runs: `cpu`, `cuda`, `cuda:1`, `mps`.

    Returns
    -------
    str
        `float16` on CUDA; `bfloat16` on a CPU that computes in it, unless the model is small; else `float32`.
    """
    if device.startswith("cuda"):
        return "float16"
    if device == "cpu" and processor_has_bfloat16() and not is_small(model, pretrained):
        return "bfloat16"
    return "float32"


def is_small(model: str, pretrained: str | None) -> bool:
    """Return True if the weights are at hand and take less than `SMALL_MODEL_BYTES`; published ones are all larger.

    >>> is_small("tiny", None), is_small("ViT-B-32", "laion2b_s34b_b79k")
    (True, False)
    """
    if model == "tiny":
        return True
    if model.startswith("local-dir:"):
        files = [file for file in Path(model.removeprefix("local-dir:")).glob("*") if file.suffix in _WEIGHTS]
        return bool(files) and max(file.stat().st_size for file in files) < SMALL_MODEL_BYTES
    if pretrained is not None and Path(pretrained).is_file():
        return Path(pretrained).stat().st_size < SMALL_MODEL_BYTES
    return False


@cache
def processor_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if the processor multiplies in bfloat16 as far as its flags say it (x86 on Linux; else False)."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _FLAGS.isdisjoint(flags.partition(":")[2].split())
