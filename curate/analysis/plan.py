"""What other settings would give, from the stored tables of a finished run: nothing is computed or written anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from curate.analysis.explain import opened
from curate.analysis.near_duplicates import explained, sampled
from curate.analysis.near_duplicates.rates import duplicate_rates
from curate.errors import BudgetError, UsageError
from curate.execution.context import Context
from curate.io import storage
from curate.selection.base import Selector
from curate.selection.rows.budget_inputs import Divided, divided
from curate.selection.rows.whatif import counts_of
from curate.selection.spread import spread

__all__ = ["EPSILONS", "SHARES", "TEMPERATURES", "draw", "pairs", "plan", "rates_of"]

#: What is looked at where nothing is named; what the run has is looked at besides.
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
EPSILONS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def plan(
    run: str | Path,
    *,
    keep: Sequence[float] = (),
    epsilon: Sequence[float] = (),
    temperature: Sequence[float] = (),
    epochs: float = 1.0,
    samples_per_epoch: int | None = None,
) -> dict[str, Any]:
    """Return what other shares, epsilons and temperatures would give, as plain values for JSON.

    epochs : passes over the data in training. samples_per_epoch : where an epoch has a fixed number of samples,
    whatever is kept.

    Keys: `keep` (one entry per share; None in place of numbers where there are not so many rows; `budgets`
    per concept in the order of `concepts`), `epsilon`, `temperature`, `cost`, and `notes`, what to know about them.
    """
    _check(keep, epsilon, temperature, epochs, samples_per_epoch)
    context = opened(run)
    found = divided(context)
    own, settings = explained.run_epsilon(context), context.recipe.select
    shares = list(keep) or _with(SHARES, settings.keep)
    kept = [_kept(context, found, share) for share in shares]
    rates = rates_of(context, list(epsilon) or _with(EPSILONS, own))
    temperatures = list(temperature) or _with(TEMPERATURES, found.density.temperature)
    facts = context.facts(context.run.decisions)
    weights = facts.get("weights") or {}
    return {
        "run": context.run.where,
        "method": settings.method,
        "now": {"keep": settings.keep, "count": found.wanted, "epsilon": own, "temperature": found.density.temperature},
        "of": settings.of,
        "rows": {"base": found.base, "eligible": found.eligible, "pinned": found.n_pinned},
        "concepts": found.concepts.select("concept", "n_eligible", "complexity", "kept").to_dicts(),
        "keep": kept,
        "epsilon": rates,
        "temperature": [_temperature(found, value) for value in temperatures],
        "cost": _cost(kept, facts["kept"], facts["input"] - facts["unusable"], epochs, samples_per_epoch),
        "effective": weights.get("effective"),
        "notes": [*_notes(settings, context, own), *_out_of_reach(found, kept)],
    }  # fmt: skip


def pairs(run: str | Path, count: int, epsilon: float | None = None) -> list[dict[str, Any]]:
    """Return `count` pairs around an epsilon (that of the run) to look at, the most similar first.

    Each with both uids, captions and places, the similarity, and whether the epsilon makes it a duplicate. Where the run
    compared nothing, they are those of a sample of 2,000 rows, and UsageError is raised where no epsilon is named.
    """
    _check((), () if epsilon is None else (epsilon,), (), 1.0, None)
    context = opened(run)
    own = explained.run_epsilon(context)
    around = own if epsilon is None else epsilon
    if around is None:
        raise UsageError(
            f"{context.run.where} compared nothing: dedup.epsilon is none; name an epsilon for pairs of a sample "
            f"(--epsilon 0.05), or look for duplicates: curate run {context.run.recipe} --set dedup.epsilon=auto"
        )
    found: list[explained.Pair] | list[sampled.NearPair]
    if own is None:
        found = sampled.pairs_around(context, around, count)
    else:
        found = explained.pairs_around(context, around, count)
    known = _samples(context, [uid for pair in found for uid in (pair.uid, pair.other)])
    return [
        {
            "similarity": pair.similarity, "duplicate": explained.is_duplicate(context, pair.similarity, around),
            "concept": pair.concept, "one": known.get(pair.uid), "other": known.get(pair.other),
        }
        for pair in found
    ]  # fmt: skip


def _check(
    keep: Sequence[float],
    epsilon: Sequence[float],
    temperature: Sequence[float],
    epochs: float,
    samples_per_epoch: int | None,
) -> None:
    """Raise UsageError for a setting outside its range."""
    wrong = [
        *(("--keep", "in (0, 1]", value) for value in keep if not 0 < value <= 1),
        *(("--epsilon", "in (0, 1)", value) for value in epsilon if not 0 < value < 1),
        *(("--temperature", "above 0", value) for value in temperature if not value > 0),
    ]
    wrong += [] if 0 < epochs < float("inf") else [("--epochs", "a number above 0", epochs)]
    if samples_per_epoch is not None and samples_per_epoch < 1:
        wrong.append(("--samples-per-epoch", "at least 1", samples_per_epoch))
    if wrong:
        name, rule, value = wrong[0]
        raise UsageError(f"{name} must be {rule}, got {value:g}")


def _with(usual: Sequence[float], own: float | None) -> list[float]:
    return sorted({*usual, *([] if own is None else [own])})


def _kept(context: Context, found: Divided, share: float) -> dict[str, Any]:
    """Return what a share keeps of the whole and of each concept."""
    select = context.recipe.select
    [count] = counts_of([share], found.base, found.eligible, found.n_pinned, at_most=select.at_most)
    entry: dict[str, Any] = {"keep": share, "kept": count, "budgets": None}
    if count is None:
        return entry
    try:
        budget = _budgets(found, select, count - found.n_pinned) + found.pinned
    except BudgetError:  # floors that take more than there is to keep
        return entry | {"kept": None}
    size = found.concepts["n_eligible"].to_numpy()
    rate = budget[size > 0] / size[size > 0]
    return entry | {
        "budgets": budget.tolist(),
        "concepts_kept": int((budget > 0).sum()),
        "at_cap": int(((budget == size) & (size > 0)).sum()),
        "lowest_share": float(rate.min()) if len(rate) else None,
        "highest_share": float(rate.max()) if len(rate) else None,
    }


def _budgets(found: Divided, select: Selector, count: int) -> npt.NDArray[np.int64]:
    """Return what each concept keeps of `count` rows besides pinned ones, by the run's method (or density)."""
    budgets = select.concept_budgets(found.density.free, count, found.parents)
    return found.density.at(count).budget if budgets is None else budgets


def rates_of(context: Context, epsilons: Sequence[float] = EPSILONS) -> list[dict[str, Any]]:
    """Return what each epsilon drops of the rows compared; of a sample (`sampled`) where the run compared nothing."""
    if explained.run_epsilon(context) is None:
        rows, dropped = sampled.rates(context, epsilons)
        return [
            {
                "epsilon": epsilon, "compared": rows, "at_least": count, "at_most": count, "exact": True,
                "share": count / max(rows, 1), "sampled": True,
            }
            for epsilon, count in zip(epsilons, dropped, strict=True)
        ]  # fmt: skip
    compared = int(context.facts(context.run.duplicates)["compared"])
    return [
        {
            "epsilon": rate.epsilon, "compared": compared, "at_least": rate.at_least, "at_most": rate.at_most,
            "exact": rate.at_least == rate.at_most, "share": rate.at_most / max(compared, 1),
        }
        for rate in duplicate_rates(context, epsilons)
    ]  # fmt: skip


def _temperature(found: Divided, value: float) -> dict[str, Any]:
    """Return how a temperature divides the rows that are kept now, as aimed at and as bounded by sizes and floors."""
    size = found.density.free
    plan = found.density.at(found.wanted - found.n_pinned, value)
    aimed = spread(plan.complexity[size > 0], value)
    return {
        "temperature": value, "largest_share": aimed.largest, "smallest_share": aimed.smallest,
        "ratio": aimed.ratio if aimed.smallest else None, "effective_concepts": aimed.effective,
        "at_cap": int((plan.at_cap & (size > 0)).sum()), "at_floor": int((plan.at_floor & (size > 0)).sum()),
        "largest_budget": int(plan.budget.max(initial=0)),
    }  # fmt: skip


def _cost(
    kept: Sequence[dict[str, Any]], now: int, usable: int, epochs: float, samples_per_epoch: int | None
) -> list[dict[str, Any]]:
    """Return what training on each selection takes, beside all usable rows and what the run keeps now."""
    rows = [("all usable rows", usable), ("this run", now)]
    rows += [(f"keep {entry['keep']:g}", entry["kept"]) for entry in kept if entry["kept"] is not None]
    costs = []
    for what, count in rows:
        epoch = count if samples_per_epoch is None else samples_per_epoch
        whole = usable if samples_per_epoch is None else samples_per_epoch
        costs.append(
            {
                "data": what, "rows": count, "samples": round(epoch * epochs), "of_all": epoch / max(whole, 1),
                "seen_each": epoch * epochs / count if count else None,
            }
        )  # fmt: skip
    return costs


def _notes(select: Selector, context: Context, own: float | None) -> list[str]:
    """Say what the numbers do not."""
    notes = []
    if not (select.by_complexity or select.by_sizes):
        notes.append(
            f"method {select.method} selects rows, not budgets of concepts: budgets are those of method density"
        )
    if select.drop_noise is not None:
        notes.append("rows that drop_noise took out are not among the eligible ones here")
    if select.floor is not None:
        notes.append(
            "floors are left out here: what each group keeps for sure may move rows between concepts"
        )
    if own is None:
        notes.append(
            f"dedup.epsilon is none: nothing was compared; what epsilons drop is of a sample of up to {sampled.ROWS:,} rows"
        )
    elif context.recipe.dedup.mode == "greedy":
        notes.append(
            "greedy dedup drops at most what reference mode would: an epsilon is exact where at_least is at_most, "
            "and always at the run's own"
        )
    if explained.confirmed(context):
        notes.append(
            "small pictures had to confirm what was dropped (dedup.confirm): pairs are those of the vectors"
        )
    if own is not None:
        notes.append("an epsilon changes what reaches selection: after another one, plan again")
    return notes


def _out_of_reach(found: Divided, kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which shares cannot be kept."""
    shares = ", ".join(f"{entry['keep']:g}" for entry in kept if entry["kept"] is None)
    least = f", {found.n_pinned:,} of them pinned" if found.n_pinned else ""
    return [f"keep {shares} cannot be: {found.eligible:,} rows are eligible{least}"] if shares else []


def _samples(context: Context, uids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what people need to find and judge a few samples."""
    found: dict[str, dict[str, Any]] = {}
    names = ("uid", "shard", "row", "key", "caption", "label")
    for part in context.parts:
        path = context.run.part(context.run.samples, part.name)
        first = pl.col("copy_of").is_null() & pl.col("uid").is_in(list(uids))
        rows = pl.scan_parquet(storage.ensure_local(path), glob=False).filter(first).select(names).collect()
        rows = rows.with_columns(pl.col("label").replace(context.run.class_names()))
        found |= {row["uid"]: row for row in rows.to_dicts()}
    return found


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Draw a plan into one HTML page that needs no network, or (with kaleido and a browser) into a PNG.

    Raises UsageError for another ending, and where images cannot be drawn here.
    """
    from curate.report import plan_figure

    kind = path.suffix.lower()
    if kind == ".html":
        with storage.atomic(path) as partial:
            partial.write_text(plan_figure.page(found), encoding="utf-8")
        return
    if kind != ".png":
        raise UsageError(f"--plot must end with .html or .png, got {path}")
    try:
        image = plan_figure.figure(found).to_image("png", width=1440, height=900)
    except (ImportError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(
            f"--plot {path}: a PNG needs the package kaleido and a Chrome ({reason}); pip install kaleido, or "
            "name a file that ends with .html"
        ) from None
    with storage.atomic(path) as partial:
        partial.write_bytes(image)
