"""What this processor multiplies faster than float32, told by its flags and by no clock."""

import functools
from pathlib import Path
from typing import Literal

__all__ = ["Precision", "fast_precisions"]

Precision = Literal["bfloat16", "int8"]


@functools.cache
def _flags() -> frozenset[str]:
    """Return what this processor says it can do, and its vendor; nothing where the system does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    said = {name.strip(): value.split() for name, _, value in lines}
    return frozenset(said.get("flags", []) + said.get("vendor_id", []))


def fast_precisions(flags: frozenset[str] | None = None) -> frozenset[Precision]:
    """Return the precisions whose products are faster than float32 here.

    8 bits need VNNI with registers of 512 bits, or AMX: older instructions saturate. bfloat16 needs AMX, or AMD's
    processors; with the same instructions, Intel's are slower than float32.

    >>> sorted(fast_precisions(frozenset({"avx512_vnni", "avx512_bf16", "GenuineIntel"})))
    ['int8']
    """
    has = _flags() if flags is None else flags
    found: set[Precision] = set()
    if has & {"avx512_vnni", "amx_int8"}:
        found.add("int8")
    if "amx_bf16" in has or has >= {"avx512_bf16", "AuthenticAMD"}:
        found.add("bfloat16")
    return frozenset(found)
