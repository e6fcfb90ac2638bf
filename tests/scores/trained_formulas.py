"""The formulas that heads are scored with, called as those of `reference`: on arrays (..., n, C), in float64."""

from types import SimpleNamespace

import numpy as np
import torch

from curate.scores.heads import el2n as el2n_module
from curate.scores.heads import grand, losses
from curate.scores.heads.accumulators import Accumulator
from curate.scores.heads.logits import logit_stats
from curate.scores.heads.softmax import softmax_of, squared_norms


def of_each_model(function, logits, labels):
    """The values of `function`, which takes a softmax, for all models; NaN as the references have it."""
    logits = np.asarray(logits)
    if logits.ndim > 2:
        return np.stack([of_each_model(function, one, labels) for one in logits])
    if logits.shape[1] < 2:
        return np.full(len(logits), np.nan)
    with np.errstate(invalid="ignore"):
        sums = softmax_of(torch.tensor(logits), torch.from_numpy(np.maximum(labels, 0)))
    values = function(sums).numpy()
    return np.where((labels >= 0) & np.isfinite(logits).all(axis=1), values, np.nan)


def loss(logits, labels):
    return of_each_model(losses.loss, logits, labels)


def p_label(logits, labels):
    return of_each_model(losses.p_label, logits, labels)


def margin_logit(logits, labels):
    return of_each_model(lambda sums: sums.margin, logits, labels)


def entropy(logits, normalised=False):
    values = of_each_model(losses.entropy, logits, np.zeros(logits.shape[-2], int))
    return values / np.log(logits.shape[-1]) if normalised else values


def correct(logits, labels):
    return of_each_model(lambda sums: logit_stats(sums).right, logits, labels) == 1


def el2n(logits, labels, of="logits"):
    """The mean over models, if there are several."""
    values = of_each_model(el2n_module.el2n, logits, labels)
    return values.mean(axis=0) if values.ndim > 1 else values


def grand_of_layers(inputs, logits, labels, weights, bias=True):
    """GraNd of a ReLU network; weights : (out, in) of the layers from the second on."""
    sums = softmax_of(torch.tensor(logits), torch.from_numpy(labels))
    deltas = [el2n_module.error_vectors(sums)]
    for weight, hidden in zip(reversed(weights), reversed(inputs[1:]), strict=True):
        deltas.append(grand.relu_delta(deltas[-1], torch.tensor(weight.T), torch.tensor(hidden)))
    entries = [squared_norms(torch.tensor(entry)) for entry in reversed(inputs)]
    return grand.grand([squared_norms(delta) for delta in deltas], entries, bias=bias).numpy()


def accumulated(margin=None, p_label=None, right=None):
    """The sums over seeds and epochs of columns (R, E, n), one of which is given."""
    shape = next(values for values in (margin, p_label, right) if values is not None).shape
    sums = Accumulator(shape[2], shape[0], shape[1])
    for seed in range(shape[0]):
        for epoch in range(shape[1]):
            values = {
                name: torch.zeros(shape[2]) if column is None else torch.tensor(column[seed, epoch])
                for name, column in (("margin", margin), ("p_label", p_label), ("right", right))
            }
            values["right"] = values["right"].bool()
            finite = torch.isfinite(values["margin"]) & torch.isfinite(values["p_label"])
            sums.add_epoch(slice(0, shape[2]), seed, epoch + 1, SimpleNamespace(finite=finite, **values))
    return sums
