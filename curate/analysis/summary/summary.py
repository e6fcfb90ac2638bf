"""What a run says of itself: one `RunSummary`, which every page, table and file that sums up a run is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curate.analysis.diagnosis.diagnose import diagnose, score_meanings
from curate.analysis.summary.concepts import concept_table, first_concepts, typical_samples
from curate.analysis.summary.counts import group_reasons
from curate.analysis.summary.groups import group_rows, group_warnings
from curate.analysis.summary.picks import ReportRequest
from curate.analysis.summary.said import lines, named_errors, say_concepts
from curate.analysis.summary.scan import GROUPED_BY, Scan, scan_parts
from curate.analysis.summary.score_stats import ScoreStats, score_stats
from curate.analysis.summary.tables import facts, finished_families, missing, stage_facts
from curate.deduplication.findings import warnings_of
from curate.execution.context import silent
from curate.execution.engines.base import Engine
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.runs.folder import RunFolder
from curate.selection.rows.overridden import decided_since

__all__ = ["RunSummary", "stage_warnings", "summarize"]

#: What a family of scores notes about how far its seeds agree and how good its heads are.
_RELIABILITY = ("reliability", "reliability_of_mean", "seeds", "accuracy", "grand_el2n", "classes")
#: Columns of the table of concepts that are not among the plain values.
_DERIVED = ("n_assigned", "unevenness")


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSummary:
    """Everything that is known of a run; of an unfinished one what there is.

    missing : stages that are not finished. reasons, counts : rows by reason, and grouped as in the manifest; None
    before there are decisions. outcomes : rows by outcome, empty before they are embedded. concepts : one row per
    concept, None before there are any. listed : the largest, most complex and most pruned concepts. typical : the
    sample nearest to the centre of each of these. scores : in the order of the tables, the distance first.
    duplicates : compared, dropped, share, epsilon, similarity. near_sample : the shares of a sample's rows with another
    one within some distances, where none were looked for. groups : by label, source and split. weights : rows,
    effective sample size, least, mean, most; None where all rows count the same. quadrants : rows and kept rows by quadrant of
    error and uncertainty, empty where they were not scored. diagnosis : of vectors, scores and heads (`analysis/diagnosis`). complexity : how unevenly it divides the
    rows over concepts (`Spread.facts`); None where it does not. reliability : of families with several seeds. label_errors :
    how many labels heads count as wrong, and which pairs of classes. first : rows that went as noise and that a floor keeps,
    before the method chose. auto : why method auto did what, and the recipe it chose. levels : numbers of concepts, where they
    are in levels. balance : how evenly kept rows are spread over concepts, where the method evens them out. times : per stage. scan : the frames
    these numbers were made from.
    """

    missing: list[str]
    reasons: dict[str, int] | None
    counts: dict[str, Any] | None
    outcomes: dict[str, int]
    concepts: pl.DataFrame | None
    listed: dict[str, pl.DataFrame]
    typical: pl.DataFrame
    scores: list[ScoreStats]
    duplicates: dict[str, Any] | None
    near_sample: dict[str, Any] | None
    groups: dict[str, list[dict[str, Any]]]
    weights: dict[str, Any] | None
    quadrants: list[dict[str, Any]]
    diagnosis: dict[str, Any]
    complexity: dict[str, Any] | None
    reliability: list[dict[str, Any]]
    label_errors: dict[str, Any] | None
    first: dict[str, Any] | None
    auto: dict[str, Any] | None
    levels: list[int] | None
    balance: dict[str, Any] | None
    times: dict[str, Any]
    bad_shards: list[dict[str, Any]]
    warnings: list[str]
    scan: Scan

    @property
    def said(self) -> Sequence[str]:
        """The sentences on wrong labels and on what came before the method."""
        return lines(self.label_errors, self.first, self.auto, say_concepts(self.levels, self.balance))

    def totals(self) -> dict[str, Any]:
        """Return the counts, with what is known of wrong labels and of what came before the method, where it is."""
        more = {"label_errors": self.label_errors, "first": self.first, "auto": self.auto}
        return {**(self.counts or {}), **{name: value for name, value in more.items() if value}}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; a section that is not there yet is left out, None or empty."""
        samples = {row.pop("concept"): row for row in self.typical.drop("part", "distance").to_dicts()}
        lists = {}
        for name, frame in self.listed.items():
            rows = (frame.drop(_DERIVED) if "share" in frame.columns else frame).to_dicts()
            key = {"largest": "concepts"}.get(name, name.replace(" ", "_"))
            lists[key] = [{**row, "typical": samples.get(row["concept"])} for row in rows]
        return {
            "counts": self.counts,
            "missing": self.missing,
            **({"outcomes": self.outcomes} if self.counts is None else {}),
            "n_concepts": None if self.concepts is None else len(self.concepts),
            **lists,
            **{name: one for name in ("levels", "balance") if (one := getattr(self, name))},
            "scores": [one.as_dict() for one in self.scores],
            "duplicates": self.duplicates,
            **({} if self.near_sample is None else {"near_sample": self.near_sample}),
            "groups": self.groups,
            "weights": self.weights,
            **({"quadrants": self.quadrants} if self.quadrants else {}),
            **({"diagnosis": self.diagnosis} if self.diagnosis else {}),
            "complexity": self.complexity,
            "reliability": self.reliability,
            "label_errors": self.label_errors,
            "first": self.first,
            "auto": self.auto,
            "times": self.times,
            "bad_shards": self.bad_shards,
            "warnings": self.warnings,
        }


def summarize(
    run: RunFolder,
    *,
    concepts: int = 12,
    whole: bool = True,
    report: ReportRequest | None = None,
    engine: Engine | None = None,
    progress: Callable[[str, int, int, str], None] = silent,
) -> RunSummary:
    """Return the summary of a run, made in one pass over its parts; of an unfinished run what there is.

    Parameters
    ----------
    concepts
        How many concepts each list has.
    whole
        False for counts and concepts alone: scores, groups, weights and duplicates are left empty.
    report
        What a report shows besides.
    engine
        What reads the parts; by default this process, one part after the other.

    Raises
    ------
    RunError
        If tables of a part are not about the same rows, or a file cannot be read.
    """
    table = concept_table(run)
    listed = {} if table is None else first_concepts(table, concepts)
    scan = scan_parts(run, whole=whole, report=report, engine=engine, progress=progress)
    numbers = {number for frame in listed.values() for number in frame["concept"].to_list()}
    decided, groups = run.marker(run.decisions) is not None, group_rows(scan.groups)
    reasons = dict(sorted(scan.reasons.items())) if decided else None
    decisions = facts(run, run.decisions)
    return RunSummary(
        missing=missing(run),
        reasons=reasons,
        counts=None if reasons is None else group_reasons(reasons),
        outcomes=dict(sorted(scan.outcomes.items())),
        concepts=table,
        listed=listed,
        typical=typical_samples(run, scan.nearest, numbers),
        scores=score_stats(scan.sample, scan.totals),
        duplicates=_duplicates(run, scan),
        near_sample=_near_sample(run) if whole else None,
        groups=groups,
        weights=_weights(run, scan),
        quadrants=scan.quadrants.to_dicts(),
        diagnosis=_diagnosis(run, scan) if whole else {},
        complexity=facts(run, run.decisions).get("complexity"),
        reliability=_reliability(run),
        label_errors=_label_errors(run),
        first=decisions.get("first"),
        auto=decisions.get("auto"),
        levels=facts(run, run.final_concepts).get("levels"),
        balance=decisions.get("balance"),
        times=_times(run),
        bad_shards=facts(run, run.work / "keys").get("bad_shards", []),
        warnings=[*stage_warnings(run), *group_warnings(_even(groups, decisions))],
        scan=scan,
    )


def _even(
    groups: Mapping[str, list[dict[str, Any]]], decisions: Mapping[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Return the groups that are to shrink alike: by label, source and split, unless shares were asked for."""
    mixed = (decisions.get("mixture") or {}).get("per")
    return {by: rows for by, rows in groups.items() if by in GROUPED_BY and by != mixed}


def _duplicates(run: RunFolder, scan: Scan) -> dict[str, Any] | None:
    """Return what comparing found: compared, dropped, share, epsilon, and how similar the dropped are."""
    noted = facts(run, run.duplicates)
    if not noted:
        return None
    n, total, _, least, most = _sums(scan, "similarity")
    similarity = {"least": least, "mean": total / n if n else None, "most": most}
    return {**noted, "similarity": similarity}


def _near_sample(run: RunFolder) -> dict[str, Any] | None:
    """Return how many near-duplicates a sample has, where the run did not look for them."""
    looked = run.marker(run.duplicates) is None or facts(run, run.duplicates)
    found = None if looked else storage.read_json(run.near_sample)
    return found if isinstance(found, dict) else None


def _weights(run: RunFolder, scan: Scan) -> dict[str, Any] | None:
    """Return the weights of what is kept: rows, effective sample size, least, mean, most; None where all are equal."""
    noted = facts(run, run.decisions).get("weights")
    if not noted:
        return None
    n, total, squares, least, most = _sums(scan, "weight")
    if n == 0 or squares == 0:
        return dict(noted)
    spread = {"least": least, "mean": total / n, "most": most}
    return {"rows": n, "effective": total * total / squares, **noted, **spread}


def _diagnosis(run: RunFolder, scan: Scan) -> dict[str, Any]:
    """Return what looks wrong with the vectors, the scores and the heads."""
    heads = facts(run, run.scores("heads")) if "heads" in finished_families(run) else {}
    return diagnose(
        scan.vectors,
        scan.sample,
        score_meanings(read_yaml(run.recipe_text()) or {}),
        heads,
        run.class_names() or {},
    )


def _sums(scan: Scan, what: str) -> tuple[int, float, float, float | None, float | None]:
    """Return how many numbers there are, their sum, the sum of their squares, the least and the most."""
    rows = scan.sums.filter(pl.col("what") == what)
    if rows.is_empty():
        return 0, 0.0, 0.0, None, None
    _, n, total, squares, least, most = rows.row(0)
    return n, total, squares, least, most


def _reliability(run: RunFolder) -> list[dict[str, Any]]:
    """Return what families of several seeds noted about themselves: how far seeds agree, and the accuracy."""
    noted = ((name, facts(run, run.scores(name))) for name in finished_families(run))
    return [
        {"family": name, **{key: _short(found[key]) for key in _RELIABILITY if key in found}}
        for name, found in noted
        if "reliability" in found
    ]


def _label_errors(run: RunFolder) -> dict[str, Any] | None:
    """Return how many labels heads count as wrong, classes by their names; None where they were not counted."""
    if "heads" not in finished_families(run):
        return None
    return named_errors(facts(run, run.scores("heads")).get("label_errors"), run.class_names())


def _short(value: Any) -> Any:  # noqa: ANN401  (whatever a family notes)
    """Return the mean of a list of numbers, such as the accuracy of each seed; of another list its length."""
    numbers = isinstance(value, list) and value and all(isinstance(one, float) for one in value)
    return sum(value) / len(value) if numbers else len(value) if isinstance(value, list) else value


def _times(run: RunFolder) -> dict[str, Any]:
    """Return seconds, rows, rows a second and peak memory of each stage that was run."""
    found = storage.read_json(run.work / "times.json") or (storage.read_json(run.manifest) or {}).get("times")
    return dict(found or {})


def stage_warnings(run: RunFolder) -> list[str]:
    """Return what stages noted that a reader should know before trusting the numbers."""
    recipe = read_yaml(run.recipe_text()) or {}
    noted = stage_facts(run)
    found = _unusable(noted["embed"], recipe)
    for name, one in noted.items():
        found += [f"{name.removeprefix('score/')}: {text}" for text in one.get("warnings", ())]
    empty = noted["cluster"].get("empty", 0)
    found += [f"cluster: {empty:,} concepts have no sample"] if empty else []
    found += [f"dedup: {text}" for text in warnings_of(noted["dedup"])]
    return [*found, *_about_selection(noted["select"], recipe), *_newer_overrides(run)]


def _newer_overrides(run: RunFolder) -> list[str]:
    """Return the warning that people decided something since the decisions were made."""
    if run.marker(run.decisions) is None or not decided_since(run):
        return []
    return [
        f"overrides: people decided since these decisions were made; curate select {run.where} --write takes it up"
    ]


def _unusable(noted: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    limit = (recipe.get("limits") or {}).get("unusable", 1.0)
    share = noted.get("unusable", 0) / max(noted.get("rows", 0), 1)
    text = f"embed: {share:.1%} of the rows are unusable; limits.unusable allows {limit:.1%}"
    return [text] if share > limit else []


def _about_selection(noted: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Return what is to be known about the decisions: rows without a score, and uneven weights."""
    found, without, weights = [], noted.get("without_score"), noted.get("weights")
    if without:
        select = recipe.get("select") or {}
        statuses = ", ".join(f"{name}: {rows:,}" for name, rows in without.get("statuses", {}).items())
        why, rule = (f" ({statuses})", f" (on_null: {select.get('on_null')})") if statuses else ("", "")
        found.append(
            f"select: {without['rows']:,} samples have no {select.get('by')}{why}; "
            f"{without['kept']:,} of them are kept{rule}"
        )
    if weights and weights["effective"] < weights["rows"] / 2:
        worth = f"{weights['rows']:,} kept samples worth {weights['effective']:,.0f}"
        found.append(f"select: the weights make {worth}: the effective sample size")
    return found
