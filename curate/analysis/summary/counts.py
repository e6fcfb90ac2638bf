"""How many rows were kept, dropped and unusable, by their reasons; and the versions that decide a result."""

import functools
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from curate import schema
from curate.analysis.summary.scan import Scan, scan_parts
from curate.errors import RunError
from curate.execution.context import Context

__all__ = ["PACKAGES", "check_counts", "count_reasons", "group_reasons", "versions"]

PACKAGES = ("curate", "numpy", "polars", "pyarrow", "faiss-cpu", "torch", "open_clip_torch", "pillow")


def count_reasons(context: Context) -> dict[str, Any]:
    """Return rows in, kept, dropped by reason and unusable by outcome; raises RunError if they do not add up."""
    return check_counts(context, scan_parts(context.run, whole=False, tables=("decisions",)))


def check_counts(context: Context, scan: Scan) -> dict[str, Any]:
    """Return the counts of a scan, as `group_reasons` has them; raises RunError if they do not add up."""
    rows, counts = context.rows, group_reasons(scan.reasons)
    if scan.kept != counts["kept"] or rows != counts["rows"]:
        raise RunError(
            f"{rows:,} rows in, {scan.kept:,} kept, but by their reasons: {counts}; please report this"
        )
    return counts


def group_reasons(reasons: Mapping[str, int]) -> dict[str, Any]:
    """Return how many rows there are, are kept (pinned and, where there are any, spared or kept by people: of these), dropped by reason, unusable by outcome.

    >>> group_reasons({"kept": 3, "pinned": 1, "over_budget": 2, "unusable:broken_image": 4})
    {'rows': 10, 'kept': 4, 'pinned': 1, 'dropped': {'over_budget': 2}, 'unusable': {'broken_image': 4}}
    """
    unusable = {name: n for name, n in sorted(reasons.items()) if name.startswith("unusable:")}
    kept = {name: n for name, n in reasons.items() if name in schema.KEPT_REASONS}
    return {
        "rows": sum(reasons.values()),
        "kept": sum(kept.values()),
        "pinned": kept.get("pinned", 0),
        **{name: kept[name] for name in ("spared", "kept:override") if name in kept},
        "dropped": {name: n for name, n in sorted(reasons.items()) if name not in (*unusable, *kept)},
        "unusable": {name.removeprefix("unusable:"): n for name, n in unusable.items()},
    }


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a result."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


@functools.cache
def _version(package: str) -> str:
    return metadata.version(package)
