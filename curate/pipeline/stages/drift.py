"""Stage `cluster`, last part: what is new since the concepts were fitted, and whether it still fits them.

Beside the centroids stands what they were first used on: the parts of that day, and how many rows each concept had
(`2_concepts/fitted.parquet`). It stays as it is until the next fit.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from curate.clustering.drift import drift
from curate.execution.context import Context, reuse_or_remove
from curate.io import storage
from curate.recipe import Cluster

__all__ = ["FITTED", "Counted", "count", "warning"]

FITTED = pa.schema([("concept", pa.int32()), ("rows", pa.int64())])
_PARTS = b"curate.parts"


@dataclass(frozen=True)
class Counted:
    """Rows of each concept, (k,): at fitting, those still there, those that came since, and the far ones of these."""

    fitted: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    new: npt.NDArray[np.int64]
    far: npt.NDArray[np.int64]

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """All rows of each concept."""
        return self.kept + self.new

    def facts(self, n_fit: npt.NDArray[np.int64]) -> dict[str, float]:
        """Return the drift as plain numbers. n_fit : rows that each 99th percentile was measured on, (k,)."""
        found = drift(self.fitted, self.kept, self.new, self.far, n_fit)
        return {**asdict(found), "figure": found.figure}


def count(context: Context, fitted: str, limit: npt.NDArray[np.float64]) -> Counted:
    """Count the assigned rows, part by part, against those of the day of the fit; the first count is that day.

    fitted : fingerprint of the centroids. limit : distance beyond which a row is far from its concept, (k,).
    """
    path = context.run.concepts / "fitted.parquet"
    known = _parts_at_fit(path) if reuse_or_remove(path, fitted) else {part.name for part in context.parts}
    kept, new, far = (np.zeros(len(limit), np.int64) for _ in range(3))
    for part in context.parts:
        table = storage.read_table(
            context.run.part(context.run.assignments, part.name), ["concept", "distance"]
        )
        concept, distance = table["concept"].to_numpy(), table["distance"].to_numpy()
        if part.name in known:
            kept += np.bincount(concept, minlength=len(limit))
        else:
            new += np.bincount(concept, minlength=len(limit))
            far += np.bincount(concept[distance > limit[concept]], minlength=len(limit))
    if not reuse_or_remove(path, fitted):
        kind = pa.schema(FITTED, metadata={_PARTS: json.dumps(sorted(known))})
        columns = [pa.array(np.arange(len(kept), dtype=np.int32)), pa.array(kept)]
        storage.write_parquet(path, pa.table(columns, schema=kind), kind, fitted)
    return Counted(storage.read_table(path, ["rows"])["rows"].to_numpy(), kept, new, far)


def _parts_at_fit(path: Path) -> set[str]:
    return set(json.loads(pq.read_schema(storage.ensure_local(path)).metadata[_PARTS]))


def warning(found: Mapping[str, Any], settings: Cluster) -> str | None:
    """Return what is to be said of a drift (as `Counted.facts` gives it); None below `cluster.drift_warn`."""
    if found["figure"] < settings.drift_warn:
        return None
    advice = "fit the concepts anew with --refit"
    if found["figure"] < settings.drift_refit:
        advice = f"from {settings.drift_refit:.0%} on, {advice}"
    return (
        f"the data has drifted from the concepts by {found['figure']:.1%}: {found['far']:.1%} of {found['new_rows']:,} "
        f"new samples are farther from theirs than 99 % were at fitting (by chance {found['far_by_chance']:.1%}), and "
        f"{found['moved']:.1%} of all moved between concepts (by chance {found['moved_by_chance']:.1%}); {advice}"
    )
