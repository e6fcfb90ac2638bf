"""The stages of a run in the order in which they run, and the folder of each: the one list that names them all."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = [
    "REFITTED",
    "REFITTED_FOLDER",
    "STAGES",
    "STAGE_FOLDERS",
    "is_refitted",
    "marked_stages",
    "score_folders",
    "stages_until",
]

#: The folder that a stage marks when it is done, below the run folder. In that of `score` each family marks its own.
STAGE_FOLDERS = {
    "read": ".work/keys",
    "embed": "1_embeddings",
    "cluster": "2_concepts",
    "score": "3_scores",
    "filter": "3_scores/filter",
    "dedup": "4_duplicates",
    "select": "5_decisions",
    "write": "6_filtered",
    "report": "7_report",
}
STAGES = tuple(STAGE_FOLDERS)
#: What `select` marks besides, where concepts are fitted on what conditions and dedup leave (`dedup.blocks`).
REFITTED = "concepts"
REFITTED_FOLDER = "4_concepts"


def stages_until(last: str) -> tuple[str, ...]:
    """Return the stages up to and with `last`; raises ValueError if there is no such stage.

    >>> stages_until("cluster")
    ('read', 'embed', 'cluster')
    """
    return STAGES[: STAGES.index(last) + 1]


def marked_stages(families: Iterable[str], *, refitted: bool = False) -> list[str]:
    """Return what has a mark in a run with these folders of scores, in order: all stages, `score` as its families.

    refitted : whether concepts are fitted again before the selection.

    >>> marked_stages(["clip_score"])[2:5]
    ['cluster', 'score/clip_score', 'filter']
    """
    scores = [f"score/{family}" for family in families]
    expanded = {"score": scores, "select": [*([REFITTED] if refitted else []), "select"]}
    return [name for stage in STAGES for name in expanded.get(stage, [stage])]


def is_refitted(recipe: Mapping[str, Any]) -> bool:
    """Return whether a recipe, as it is written into a run, has concepts fitted again before the selection."""
    return (recipe.get("dedup") or {}).get("blocks") is not None


def score_folders(recipe: Mapping[str, Any]) -> list[str]:
    """Return the folders below 3_scores that belong to a recipe as it is written into a run, sorted.

    >>> score_folders({"score": ["pair", {"file": "x.parquet", "name": "mine"}], "dedup": {}})
    ['mine', 'pair']
    """
    against = [f"against-{one['name']}" for one in recipe["dedup"].get("against") or ()]
    return sorted([*map(_score_folder, recipe["score"]), *against])


def _score_folder(entry: str | Mapping[str, Any]) -> str:
    """Return the folder of one entry of the list `score`: its family, or the name that the user gave the table."""
    if isinstance(entry, str):
        return entry
    if "file" in entry:
        return str(entry["name"])
    ((family, settings),) = entry.items()
    return str(settings["name"] if family in ("dfn", "fuse") else family)
