"""Everything `inspect` shows, as one mapping that JSON can say; sections that are not there yet are left out."""

from collections.abc import Mapping
from typing import Any

from curate.analysis.summary.concepts import concept_table, listed, medoids
from curate.analysis.summary.groups import group_facts, group_warnings
from curate.analysis.summary.scores import score_facts
from curate.analysis.summary.tables import facts, folders, missing, part_names, score_folders
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.runs.folder import RunFolder

__all__ = [
    "duplicate_facts",
    "outcomes",
    "overview",
    "reasons",
    "reliability",
    "times",
    "warnings",
    "weight_facts",
]

#: What a family notes about how far its seeds agree and how good its heads are.
RELIABILITY = ("reliability", "reliability_of_mean", "seeds", "accuracy", "grand_el2n")


def overview(run: RunFolder, *, concepts: int) -> dict[str, Any]:
    """Return what a run says of itself: `missing` stages, and a section per thing that is known.

    reasons (rows by reason, as decided) or, before that, outcomes; concepts (the largest), most_complex,
    most_pruned; scores; duplicates; groups; weights; reliability; times; bad_shards; warnings.
    """
    table = concept_table(run)
    lists = {} if table is None else listed(table, concepts)
    typical = medoids(run, {n for frame in lists.values() for n in frame["concept"].to_list()})
    named = {row.pop("concept"): row for row in typical.drop("part", "distance").to_dicts()}
    rows = {
        {"largest": "concepts"}.get(name, name.replace(" ", "_")): [
            {**row, "typical": named.get(row["concept"])} for row in frame.to_dicts()
        ]
        for name, frame in lists.items()
    }
    decided = run.marker(run.decisions) is not None
    found: dict[str, Any] = {"missing": missing(run)}
    found |= {"reasons": reasons(run)} if decided else {"outcomes": outcomes(run)}
    found |= {"n_concepts": None if table is None else len(table), **rows, "scores": score_facts(run)}
    groups = group_facts(run)
    found |= {"duplicates": duplicate_facts(run), "groups": groups, "weights": weight_facts(run)}
    found |= {"reliability": reliability(run), "times": times(run)}
    found |= {"bad_shards": facts(run, run.work / "keys").get("bad_shards", [])}
    return found | {"warnings": [*warnings(run), *group_warnings(groups)]}


def reasons(run: RunFolder) -> dict[str, int]:
    """Return how many rows have which reason, as `5_decisions` has it; empty before there are decisions."""
    return _tally(run, "decisions", "reason")


def outcomes(run: RunFolder) -> dict[str, int]:
    """Return how many rows have which outcome; empty before they are embedded."""
    return _tally(run, "samples", "outcome")


def _tally(run: RunFolder, name: str, column: str) -> dict[str, int]:
    import polars as pl

    folder = run.samples if name == "samples" else run.decisions
    counts: dict[str, int] = {}
    for part in part_names(run, folder):
        found = pl.DataFrame(storage.read_table(run.part(folder, part), [column]))[column].value_counts()
        for value, count in found.iter_rows():
            counts[value] = counts.get(value, 0) + count
    return dict(sorted(counts.items()))


def duplicate_facts(run: RunFolder) -> dict[str, Any] | None:
    """Return what comparing found: compared, dropped, share, epsilon, and how similar the dropped are."""
    import polars as pl

    noted = facts(run, run.duplicates)
    if not noted:
        return None
    counted, least, most, total = 0, None, None, 0.0
    for part in part_names(run, run.duplicates):
        frame = pl.DataFrame(
            storage.read_table(run.part(run.duplicates, part), ["duplicate_of", "similarity"])
        )
        near = frame.filter(pl.col("duplicate_of").is_not_null())["similarity"].cast(pl.Float64).drop_nulls()
        if len(near):
            counted, total = counted + len(near), total + float(near.sum())
            low, high = near.to_numpy().min().item(), near.to_numpy().max().item()
            least, most = min(low, low if least is None else least), max(high, most or -1.0)
    similarity = {"least": least, "mean": total / counted if counted else None, "most": most}
    return {**noted, "similarity": similarity}


def weight_facts(run: RunFolder) -> dict[str, Any] | None:
    """Return the weights of what is kept: rows, effective sample size, least, mean, most; None where all are equal."""
    import polars as pl

    noted = facts(run, run.decisions).get("weights")
    if not noted:
        return None
    rows, total, squares, least, most = 0, 0.0, 0.0, float("inf"), 0.0
    for part in part_names(run, run.decisions):
        frame = pl.DataFrame(storage.read_table(run.part(run.decisions, part), ["keep", "weight"]))
        weight = frame.filter(pl.col("keep"))["weight"].cast(pl.Float64).drop_nulls().to_numpy()
        rows, total, squares = rows + len(weight), total + weight.sum(), squares + (weight * weight).sum()
        least, most = min(least, weight.min(initial=least)), max(most, weight.max(initial=most))
    if rows == 0 or squares == 0:
        return dict(noted)
    spread = {"least": float(least), "mean": float(total / rows), "most": float(most)}
    return {"rows": rows, "effective": float(total * total / squares), **noted, **spread}


def reliability(run: RunFolder) -> list[dict[str, Any]]:
    """Return what families of several seeds noted about themselves: how far seeds agree, and the accuracy."""
    noted = ((name, facts(run, run.scores(name))) for name in score_folders(run))
    return [
        {"family": name, **{key: _short(found[key]) for key in RELIABILITY if key in found}}
        for name, found in noted
        if "reliability" in found
    ]


def _short(value: Any) -> Any:  # noqa: ANN401  (whatever a family notes)
    """Return the mean of a list of numbers, such as the accuracy of each seed; all else as it is."""
    numbers = isinstance(value, list) and value and all(isinstance(one, float) for one in value)
    return sum(value) / len(value) if numbers else len(value) if isinstance(value, list) else value


def times(run: RunFolder) -> dict[str, Any]:
    """Return seconds, rows, rows a second and peak memory of each stage that was run."""
    found = storage.read_json(run.work / "times.json") or (storage.read_json(run.manifest) or {}).get("times")
    return dict(found or {})


def warnings(run: RunFolder) -> list[str]:
    """Return what stages noted that a reader should know before trusting the numbers."""
    recipe = read_yaml(run.recipe_text()) or {}
    found = _unusable(facts(run, run.embeddings), recipe)
    for name, folder in folders(run).items():
        found += [f"{name.removeprefix('score/')}: {text}" for text in facts(run, folder).get("warnings", ())]
    empty = facts(run, run.concepts).get("empty", 0)
    found += [f"cluster: {empty:,} concepts have no sample"] if empty else []
    return found + _about_selection(facts(run, run.decisions), recipe)


def _unusable(noted: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    limit = (recipe.get("limits") or {}).get("unusable", 1.0)
    share = noted.get("unusable", 0) / max(noted.get("rows", 0), 1)
    said = f"embed: {share:.1%} of the rows are unusable; limits.unusable allows {limit:.1%}"
    return [said] if share > limit else []


def _about_selection(noted: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    found, without, weights = [], noted.get("without_score"), noted.get("weights")
    if without:
        by = (recipe.get("select") or {}).get("by")
        found.append(
            f"select: {without['rows']:,} samples have no {by}; {without['kept']:,} of them are kept"
        )
    if weights and weights["effective"] < weights["rows"] / 2:
        worth = f"{weights['rows']:,} kept samples worth {weights['effective']:,.0f}"
        found.append(f"select: the weights make {worth}: the effective sample size")
    return found
