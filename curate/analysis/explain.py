"""Why one sample of a finished run was kept or dropped, and what would decide otherwise; nothing is computed anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.analysis.near_duplicates import explained
from curate.analysis.row_lookup import LISTED, find, rows_with
from curate.deduplication.thresholds import largest_epsilon
from curate.errors import RunError
from curate.execution.context import Context
from curate.execution.engines.local import LocalEngine
from curate.execution.parts import with_parts
from curate.filtering.conditions import columns_of, needed_scores
from curate.filtering.source_columns import values_of
from curate.io.remote.cache import ensure_all_local, ensure_local
from curate.overrides.store import Overrides
from curate.recipe import ScoreFilter
from curate.recipe.loading import load_recipe
from curate.runs.run import open_run
from curate.scores.registry import score_columns
from curate.selection.rows.budget_inputs import Divided, divided
from curate.selection.rows.counterfactual import nearest_flip
from curate.selection.rows.finished import Finished, Row
from curate.selection.rows.run_rows import classes_of
from curate.selection.rows.whatif import share_for

__all__ = ["explain", "opened"]

#: Budgets computed to find the nearest count, of so many concepts in all.
_WORK = 5_000_000


def opened(run: str | Path) -> Context:
    """Return a finished run for reading, with its recipe and parts.

    Raises UsageError where there is none, RunError where nothing is decided yet.
    """
    folder = open_run(run).folder
    if folder.marker(folder.decisions) is None:
        raise RunError(f"{folder.where}: 5_decisions is not there yet; finish the run first")
    recipe = load_recipe(folder.recipe, settings={"run": folder.where})
    return with_parts(Context(recipe, folder, LocalEngine(1)))


def explain(run: str | Path | Context, which: str) -> dict[str, Any]:
    """Return why a sample was kept or dropped, as plain values for JSON.

    run : a run folder, or what `opened` made of it, where many samples are asked about.
    which : a uid, ``shard:row``, the number of a row over all shards (from 0), a file name, path, URL or key, or the
    beginning of a uid that only one has (`row_lookup.find`). Raises UsageError where that is no sample of the run, or
    several.

    Keys: `sample`, `occurrences`, `decision`, `concept`, `scores`, and where they apply `predicted` (another label that heads
    which never saw the sample give it), `duplicate`, `filter`,
    `overrides` (what people decided), `flip` (the nearest `select.keep` that decides otherwise, or why there is none) and `epsilon`.
    """
    context = run if isinstance(run, Context) else opened(run)
    row = find(context, which)
    sample = _sample(context, row)
    reason = str(row["reason"])
    facts: dict[str, Any] = {
        "run": context.run.where,
        "uid": row["uid"],
        "decision": {
            name: row.get(name) for name in ("keep", "reason", "weight", "inclusion_prob", "random_control")
        },
        "sample": {**sample, "label": context.run.class_names().get(sample["label"], sample["label"])},
        "occurrences": _occurrences(context, row["uid"]),
    }
    judged = {**sample, **_of_uid(context, row["uid"], row["concept"] is not None)}
    found = divided(context)
    if (other := _predicted(context, facts["sample"]["label"], judged)) is not None:
        facts["predicted"] = other
    if row["concept"] is not None:
        facts["concept"] = _concept(context, found, row)
        facts["scores"] = _scores(context, {**judged, "concept": row["concept"], "distance": row["distance"]})
    if reason in ("exact_duplicate", "near_duplicate"):
        facts["duplicate"] = _duplicate(context, row, judged)
    why = _failed(context, f"filter:{judged['spared']}" if reason == "spared" else reason, judged)
    if why is not None:
        facts["filter"] = why
    people = _by_people(context, row)
    if people:
        facts["overrides"] = people
    facts["flip"] = _flip(context, found, row)
    return facts


# --- its tables -----------------------------------------------------------------------------------------------


def _occurrences(context: Context, uid: str) -> list[dict[str, Any]]:
    names = ("occurrence", "shard", "row", "keep", "reason")
    rows = [{name: row[name] for name in names} for row in rows_with(context, pl.col("uid") == uid)]
    return sorted(rows, key=lambda row: int(row["occurrence"]))[:LISTED]


def _sample(context: Context, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what 0_samples says of the row."""
    path = context.run.part(context.run.samples, context.parts[row["part"]].name)
    itself = (pl.col("shard") == row["shard"]) & (pl.col("row") == row["row"])
    return pl.scan_parquet(ensure_local(path), glob=False).filter(itself).collect().row(0, named=True)


def _of_uid(context: Context, uid: str, embedded: bool) -> dict[str, Any]:
    """Return what the assignments, duplicates, filter and scores say of a sample."""
    if not embedded:
        return {}
    run = context.run
    folders = {column.folder for column in score_columns(context.recipe).values()} - {""}
    tables = [
        run.assignments,
        run.duplicates,
        run.scores("filter"),
        *(run.scores(name) for name in sorted(folders)),
    ]
    found: dict[str, Any] = {}
    for folder in tables:
        rows = (
            pl.scan_parquet(ensure_all_local(folder, "part-*.parquet"), glob=False)
            .filter(pl.col("uid") == uid)
            .collect()
        )
        if len(rows):
            found |= rows.row(0, named=True)
    return found


def _predicted(context: Context, label: str | None, judged: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the label that heads give a sample, and how likely its own one is; None where they agree, or said nothing."""
    said = judged.get("pred_label")
    if label is None or said is None:
        return None
    found = context.run.class_names().get(said, said)
    if found == label:
        return None
    return {"label": found, "p_label": judged.get("p_label")}


def _scores(context: Context, judged: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each score of a sample, with the share of the others' values that are lower (half of equal ones).

    Families that nobody needs, and that have no row to score, are left out.
    """
    known, run = score_columns(context.recipe), context.run
    idle = {
        one.folder
        for one in known.values()
        if one.folder and context.facts(run.scores(one.folder)).get("idle")
    }
    columns = {n: c for n, c in known.items() if c.higher_is is not None and c.folder not in idle}
    rows = []
    for name, column in columns.items():
        value = judged.get(name)
        folder = context.run.scores(column.folder) if column.folder else context.run.final_assignments
        entry: dict[str, Any] = {
            "score": name,
            "value": value,
            "percentile": None,
            "higher_is": column.higher_is,
        }
        if value is None:
            entry["status"] = judged.get(column.status)
        else:
            other = pl.col(name)
            counts = pl.scan_parquet(ensure_all_local(folder, "part-*.parquet"), glob=False).filter(
                other.is_finite()
            )
            below, same, n = (
                counts.select(below=(other < value).sum(), same=(other == value).sum(), n=pl.len())
                .collect(engine="streaming")
                .row(0)
            )
            entry["percentile"] = 100 * (below + same / 2) / max(n, 1)
        rows.append(entry)
    return rows


def _concept(context: Context, found: Divided, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row's place in its concept, and the concept's budget with what set it."""
    table = found.concepts.row(row["concept"], named=True)
    names = ("n_eligible", "d_intra", "d_inter", "complexity", "probability", "target", "budget", "kept")
    facts = {"concept": row["concept"], "distance": row["distance"], "rank": row["rank"]}
    facts |= {name: table[name] for name in names}
    return facts | {"set_by": _set_by(context, found, table)}


def _set_by(context: Context, found: Divided, table: Mapping[str, Any]) -> str:
    """Say what set the budget of a concept."""
    select = context.recipe.select
    if not table["n_eligible"]:
        return "nothing: none of its rows reaches selection"
    if table["at_cap"]:
        return "cap: all its rows are kept"
    if not select.by_complexity:
        by = "by the sizes of concepts" if select.balances else "which sees rows and not budgets"
        return f"method {select.method}, {by}"
    pinned = f", besides {table['n_pinned']} pinned rows" if table["n_pinned"] else ""
    if table["at_floor"]:
        return f"floor: min_per_concept {found.density.floor(found.wanted - found.n_pinned)}{pinned}"
    aim = f"complexity: a share of {table['probability']:.2%}, {table['target']:.1f} rows"
    moved = abs(table["budget"] - table["n_pinned"] - table["target"]) >= 1
    return f"{aim}{', moved by the bounds of other concepts' if moved else ''}{pinned}"


def _duplicate(context: Context, row: Mapping[str, Any], judged: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row duplicates, and the epsilon at which its concept's dedup keeps it.

    Where small pictures confirmed it, no epsilon is named: their comparison is not done again.
    """
    if row["reason"] == "exact_duplicate":
        facts: dict[str, Any] = {
            "of": row["duplicate_of"],
            "similarity": None,
            "kept_at": None,
            "exact": True,
        }
        others = rows_with(context, pl.col("uid") == row["duplicate_of"])
        key = None if row["occurrence"] or not others else _sample(context, others[0])["key"]
        return facts if key is None else {**facts, "of_key": key}
    if explained.confirmed(context):
        return {
            "of": row["duplicate_of"], "similarity": judged["similarity"], "exact": False, "confirmed": True,
            "epsilon": explained.run_epsilon(context), "kept_at": None,
        }  # fmt: skip
    keeping = explained.keeping(context, (judged["concept"], judged["subconcept"]), row["uid"])
    epsilon = None if keeping is None else largest_epsilon(keeping)
    facts = {"of": row["duplicate_of"], "similarity": judged["similarity"], "exact": False}
    facts["epsilon"] = explained.run_epsilon(context)
    facts["kept_at"] = epsilon
    if epsilon is not None and keeping is not None:
        facts["nearest"] = keeping.nearest
    return facts


def _failed(context: Context, reason: str, judged: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return which filter, leak or list took a row out (or pinned it), and its values."""
    recipe = context.recipe
    kind, _, what = reason.partition(":")
    if kind == "filter":
        condition = next((one for one in recipe.filter if str(one) == what), what)
        names = columns_of([condition])
        named = {"on_null": condition.on_null} if isinstance(condition, ScoreFilter) else {}
        values = {name: judged[name] for name in names if name in judged}
        shard = next(part.shard for part in context.parts if part.shard.name == judged["shard"])
        values |= values_of(shard, judged["row"], [name for name in names if name not in judged])
        return {"condition": what, "values": values} | named
    if kind == "leak":
        column = f"similarity_to_{what}"
        limit = next(one.epsilon or recipe.dedup.epsilon for one in recipe.dedup.against if one.name == what)
        return {"leak": what, "values": {column: judged.get(column)}, "epsilon": limit}
    if kind == "no_score":
        return {"status": what, "values": {name: judged.get(name) for name in needed_scores(recipe)}}
    if reason == "excluded":
        lists = {name: list(getattr(recipe, name)) for name in ("exclude", "only") if getattr(recipe, name)}
        return {"lists": lists}
    return {"lists": {"pin": list(recipe.pin)}} if judged.get("pinned") else None


def _by_people(context: Context, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what people decided about a sample, as it holds now; also that they dropped what it is a duplicate of."""
    held = Overrides(context.run).current()
    of = row["duplicate_of"] if row["reason"] == "near_duplicate" else None
    about = (pl.col("uid") == row["uid"]) | (
        pl.col("uid").eq_missing(pl.lit(of)) & (pl.col("what") == "drop")
    )
    return held.filter(about).with_columns(pl.col("when").dt.to_string("iso:strict")).to_dicts()


# --- what would decide otherwise ------------------------------------------------------------------------------


def _flip(context: Context, found: Divided, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nearest `select.keep` that decides otherwise, or why there is none."""
    if row["rank"] is None:
        return {"keep": None, "why": _never(str(row["reason"]))}
    if row["reason"] == "kept:override":
        return {"keep": None, "why": "people keep it, at any keep"}
    if row["reason"] == "pinned":
        return {"keep": None, "why": "it is pinned: kept at any keep"}
    if context.recipe.select.composed:
        return {"keep": None, "why": _settled_first(context, row)}
    kept = bool(row["keep"])
    asked = Row(row["uid"], row["part"], row["concept"], row["rank"], kept)
    standing = context.recipe.select.standing(Finished(context, found, classes_of(context)), asked)
    if isinstance(standing, str):
        return {"keep": None, "why": standing}
    now = found.wanted - found.n_pinned
    if standing.keeps(now) != kept:
        raise RunError(
            f"{context.run.where}: the decision on {row['uid']} is not what recipe.yaml makes of the tables; run it "
            f"again: curate run {context.run.recipe}"
        )
    tries = min(10_000, max(100, _WORK // max(1, len(found.concepts))))
    flip = nearest_flip(standing, now, tries=tries)
    if flip is None:
        return {
            "keep": None,
            "why": f"it is {'kept' if kept else 'dropped'} at every number of rows there can be",
        }
    count = flip.count + found.n_pinned
    share = share_for(count, found.base)
    return {"keep": share, "count": count, "kept": not kept, "nearest": flip.nearest} | _present(
        context, found
    )


def _settled_first(context: Context, row: Mapping[str, Any]) -> str:
    """Say what came before the method: the noisiest rows went, or a floor kept some."""
    select, first = context.recipe.select, context.facts(context.run.decisions).get("first", {})
    if select.drop_noise is not None and row["reason"] == f"cutoff:{first.get('noise_by')}":
        return (
            f"it is one of the {first.get('noise', 0):,} rows with the worst {first.get('noise_by')}, dropped before the "
            "selection (select.drop_noise)"
        )
    settled = " and ".join(
        name
        for name, value in (("drop_noise", select.drop_noise), ("floor", select.floor))
        if value is not None
    )
    return f"select.{settled} act before the method, so no keep can be named at which it is decided otherwise"


def _present(context: Context, found: Divided) -> dict[str, Any]:
    """Return the present budget, as a share and as a count, and what shares are of."""
    return {
        "now": share_for(found.wanted, found.base),
        "now_count": found.wanted,
        "of": context.recipe.select.of,
    }


def _never(reason: str) -> str:
    """Say why no `keep` changes a decision that was made before selection."""
    kinds: Sequence[tuple[str, str]] = (
        ("unusable", "it is unusable: no keep brings it back"),
        ("exact_duplicate", "it is a copy: the sample that stands for it is kept or dropped in its place"),
        ("dropped:override", "people dropped it, before selection"),
        ("near_duplicate", "it is a near-duplicate, dropped before selection"),
        ("excluded", "it is excluded by a list, before selection"),
        ("leak", "it is too near an evaluation set, and dropped before selection"),
        ("no_score", "it lacks a score that is needed, and is dropped before selection"),
    )
    why = next(
        (why for kind, why in kinds if reason.startswith(kind)), "a filter dropped it before selection"
    )
    return f"{why}, at any keep" if "before" in why else why
