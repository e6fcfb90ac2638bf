"""Scores that a family is computed from: columns of other families, and why they are null."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.execution.context import require_same
from curate.io import storage
from curate.runs.folder import RunFolder
from curate.scores.base import ScoreColumn

__all__ = ["NONFINITE", "read_part"]

#: The status of a row whose score is null without a reason of its own.
NONFINITE = "nonfinite"


def read_part(
    run: RunFolder, part: str, columns: Mapping[str, ScoreColumn]
) -> tuple[dict[str, npt.NDArray[np.float32]], pl.Series]:
    """Return columns of other families for the samples of a part, and the status of each row.

    columns : name to where it is, as `score_columns` says. Returns (name to (n,) float32, NaN where there is no
    score) and (n,) strings: `ok`, or the status of the first column that is null.
    """
    first = pl.DataFrame(storage.read_table(run.part(run.assignments, part), ["uid", "distance"]))
    values: dict[str, npt.NDArray[np.float32]] = {}
    why = pl.Series("status", ["ok"] * len(first), pl.String)
    for name, column in reversed(list(columns.items())):
        frame, status = first, pl.Series(["null"] * len(first), dtype=pl.String)
        if column.folder:
            path = run.part(run.scores(column.folder), part)
            frame = pl.DataFrame(storage.read_table(path, ["uid", name, column.status]))
            require_same(first["uid"], frame["uid"], path)
            status = frame[column.status].replace("ok", NONFINITE)
        score = frame[name].cast(pl.Float32)
        score = score.set(~score.is_finite(), None)
        values[name] = score.fill_null(np.nan).to_numpy()
        why = why.zip_with(score.is_not_null(), status)
    return dict(reversed(values.items())), why
