"""The scores of all samples of the input, and how far the seeds agree."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.scores.heads.accumulators import Accumulator, Doubles
from curate.scores.heads.course import Course
from curate.scores.heads.dynamics import early_agreement, neg_aum
from curate.scores.heads.folds import Labelled
from curate.scores.reliability import mean_spearman, same_ranking, spearman_brown
from curate.scores.status import NONFINITE, Codes

__all__ = ["HeadScores", "collect", "spread_course"]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class HeadScores:
    """One value per sample in the order of the input, NaN (pred_label and n_obs: -1 and 0) unless `status` is ok (code 0).

    el2n, grand, loss : mean over seeds of the held-out value, `*_std` its deviation over seeds. entropy, p_label :
    means too. neg_aum : minus the mean margin over seeds and epochs. forgetting : events, summed over seeds;
    all epochs for a run that never learned the sample. early_agreement : moving average of p_label.
    pred_label : class of the largest mean probability, a place in `classes`. confident_label : the one that heads are
    confident of (`label_errors`), -1 for none; all of them where heads are not trained out of fold. n_obs : observations behind the means.

    el2n_by_seed : (seeds, rows) of a hash sample of at most 100,000 rows, whose places in the input are `sample`.
    accuracy : of each seed in `seeds`, out of fold. reliability : mean Spearman between two seeds' el2n, and
    `reliability_of_mean` what Spearman and Brown project for the mean of all. grand_el2n : Spearman of the two
    columns; above 0.999 one of them is idle. course : columns of the course of training that were asked for, by name. calibration : rows, temperature, error, error_scaled
    (`temperature`), empty where heads were not trained out of fold.
    """

    el2n: Floats
    el2n_std: Floats
    grand: Floats
    grand_std: Floats
    loss: Floats
    loss_std: Floats
    entropy: Floats
    neg_aum: Floats
    forgetting: Floats
    early_agreement: Floats
    p_label: Floats
    pred_label: npt.NDArray[np.int32]
    confident_label: npt.NDArray[np.int32]
    n_obs: npt.NDArray[np.int32]
    status: Codes
    classes: list[str | int]
    seeds: list[int]
    accuracy: Doubles
    sample: npt.NDArray[np.int64]
    el2n_by_seed: Floats
    reliability: float
    reliability_of_mean: float
    grand_el2n: float
    course: Mapping[str, Floats] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    def column_names(self) -> list[str]:
        """Return the names of the float columns."""
        plain = [one.name for one in fields(self) if one.type in (Floats, "Floats")]
        return [name for name in plain if name != "el2n_by_seed"]


def collect(data: Labelled, totals: Accumulator, seeds: list[int], *, trained: bool) -> HeadScores:
    """Return the scores from the sums; where nothing was `trained`, what hangs on epochs is NaN."""
    seen = totals.el2n.n_obs > 0
    status = data.status.copy()
    status[data.rows[~seen]] = NONFINITE
    obs = np.maximum(totals.el2n.n_obs, 1)
    sums = totals.sums
    nothing = np.full(len(obs), np.nan)
    values = {
        "el2n": totals.el2n.means(),
        "el2n_std": totals.el2n.std(),
        "grand": totals.grand.means(),
        "grand_std": totals.grand.std(),
        "loss": totals.loss.means(),
        "loss_std": totals.loss.std(),
        "entropy": sums["entropy"] / obs,
        "neg_aum": neg_aum(sums["margin"], sums["looks"]),
        "p_label": sums["p_label"] / obs,
        "forgetting": totals.forgetting() if trained else nothing,
        "early_agreement": early_agreement(sums["early"], sums["weight"]) if trained else nothing,
    }
    columns: dict[str, Any] = {
        name: _spread(value, seen, data).astype(np.float32) for name, value in values.items()
    }
    n_sample = totals.el2n_by_seed.shape[1]
    one = mean_spearman(totals.el2n_by_seed, data.hashes[:n_sample])
    return HeadScores(
        **columns,
        pred_label=_spread(totals.pred, seen, data, -1).astype(np.int32),
        confident_label=_spread(totals.confident, seen, data, -1).astype(np.int32),
        n_obs=_spread(totals.el2n.n_obs, seen, data, 0).astype(np.int32),
        status=status,
        classes=data.classes,
        seeds=list(seeds),
        accuracy=totals.right.mean(axis=0) if len(data.rows) else np.full(len(seeds), np.nan),
        sample=data.rows[:n_sample],
        el2n_by_seed=totals.el2n_by_seed.astype(np.float32),
        reliability=one,
        reliability_of_mean=spearman_brown(one, len(seeds)) if seeds else float("nan"),
        grand_el2n=same_ranking(values["el2n"][:n_sample], values["grand"][:n_sample]),
    )


def spread_course(course: Course, data: Labelled) -> dict[str, Floats]:
    """Return the columns of the course of training for all n samples of the input, (n,) each, NaN where there is none."""
    return {
        name: _spread(value, np.isfinite(value), data).astype(np.float32)
        for name, value in course.columns().items()
    }


def _spread(
    value: npt.NDArray[Any], seen: npt.NDArray[np.bool_], data: Labelled, rest: float = np.nan
) -> npt.NDArray[Any]:
    full = np.full(len(data.status), rest, value.dtype)
    full[data.rows[seen]] = value[seen]
    return full
