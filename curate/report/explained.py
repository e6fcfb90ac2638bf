"""What `explain` found about a sample, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["lines", "why_lines"]


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `curate.analysis.explain.explain` found, in sentences."""
    decision, sample = facts["decision"], facts["sample"]
    yield f"{facts['uid']}: {'kept' if decision['keep'] else 'dropped'} ({decision['reason']})"
    for name in ("caption", "label", "key"):
        if sample[name] is not None:
            yield f"  {name}: {sample[name][:100]}"
        if name == "label" and "predicted" in facts:
            yield _predicted(facts["predicted"], sample["label"])
    yield from _places(facts)
    yield from why_lines(facts)


def why_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a sample was kept or dropped, and what would decide otherwise."""
    decision, sample = facts["decision"], facts["sample"]
    if sample["reason"]:
        yield f"  {sample['outcome']}: {sample['reason']}"
    if "concept" in facts:
        yield from _concept(facts["concept"])
    if "duplicate" in facts:
        yield from _duplicate(facts["duplicate"])
    if "filter" in facts:
        yield from _filter(facts["filter"])
    for one in facts.get("overrides", ()):
        other = "" if one["uid"] == facts["uid"] else f" about {one['uid']}"
        label = f" {one['to']}" if one["what"] == "wrong_label" and one["to"] else ""
        yield f"  {one['by']} decided{other} on {one['when'][:16]}: {one['what']}{label}"
    if decision["keep"] and decision["weight"] != 1:
        yield f"  weight {_number(decision['weight'])}"
    yield from _flip(facts["flip"])


def _predicted(facts: Mapping[str, Any], label: str) -> str:
    sure = "" if facts["p_label"] is None else f", which is {100 * facts['p_label']:.2g} % likely to them"
    return f"  heads that never saw it say {facts['label'][:100]}, not {label[:100]}{sure}"


def _places(facts: Mapping[str, Any]) -> Iterator[str]:
    places = facts["occurrences"]
    if len(places) == 1:
        yield f"  {places[0]['shard']}:{places[0]['row']}"
        return
    for one in places:
        said = "kept" if one["keep"] else "dropped"
        yield f"  {one['shard']}:{one['row']} (occurrence {one['occurrence']}: {said}, {one['reason']})"


def _concept(facts: Mapping[str, Any]) -> Iterator[str]:
    rank = "" if facts["rank"] is None else f", rank {facts['rank']:,} of {facts['n_eligible']:,}"
    yield f"  concept {facts['concept']}: distance {_number(facts['distance'])}{rank}"
    yield f"  the concept keeps {facts['kept']:,} of {facts['n_eligible']:,}; {facts['set_by']}"


def _duplicate(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["exact"]:
        named = f" ({facts['of_key']})" if "of_key" in facts else ""
        yield f"  a copy of {facts['of']}{named}"
        return
    beyond = f"similarity {_number(facts['similarity'])}, beyond 1 - {facts['epsilon']:g}"
    yield f"  a near-duplicate of {facts['of']}: {beyond}"
    if facts.get("confirmed"):
        yield "  small pictures of the two confirm it (dedup.confirm)"
    elif facts["kept_at"] is None:
        yield "  no epsilon keeps it: it equals an earlier row of its concept, or nearly"
    else:
        more = "" if facts["nearest"] else " (and perhaps at a larger one)"
        yield f"  at epsilon {facts['kept_at']:g} the dedup of its concept keeps it{more}"


def _filter(facts: Mapping[str, Any]) -> Iterator[str]:
    values = ", ".join(f"{name} is {_number(value)}" for name, value in facts.get("values", {}).items())
    if "condition" in facts:
        yield f"  failed: {facts['condition']} ({values})"
    elif "leak" in facts:
        yield f"  too near the set {facts['leak']}: {values}, beyond 1 - {facts['epsilon']:g}"
    elif "status" in facts:
        yield f"  no score: {facts['status']} ({values})"
    for name, paths in facts.get("lists", {}).items():
        yield f"  {'not on' if name == 'only' else 'on'} the list {name}: {', '.join(paths)}"


def _flip(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["keep"] is None:
        yield f"  {facts['why']}"
        return
    said = "kept" if facts["kept"] else "dropped"
    present = f"now {facts['now']:g} ({facts['now_count']:,})"
    nearer = "" if facts["nearest"] else "; perhaps at a nearer one too, not all were tried"
    yield (
        f"  at keep {facts['keep']!r} ({facts['count']:,} rows) it is {said}; "
        f"{present} of the {facts['of']} rows{nearer}"
    )


def _number(value: object) -> str:
    """Return a value as people read it; a float with six digits, a text as it is written."""
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
