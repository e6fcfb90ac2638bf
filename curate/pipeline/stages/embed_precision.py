"""A run goes on in the precision that it was begun in: what `embed.precision: auto` means differs between machines.

Vectors of one run are compared with each other, and embedding everything again because a run moved to another machine,
or curate learned to use its processor, would cost more than it gives.
"""

from curate.execution.context import log
from curate.io import storage
from curate.pipeline.stages.embed_task import precision_of
from curate.recipe import Embed, Recipe
from curate.runs.folder import RunFolder

__all__ = ["as_begun", "note"]

_RECORD = "precision.json"


def as_begun(asked: Recipe, now: Recipe, run: RunFolder) -> Recipe:
    """Return the recipe `now` with the precision that its run was begun in, where that is another one; says so once.

    Parameters
    ----------
    asked
        As the user wrote it.
    now
        With what `auto` means on the engine.
    run
        The run folder, new or begun before.
    """
    embed = now.embed
    if asked.embed.own_vectors or asked.embed.precision != "auto":
        return now
    begun = _begun(run, embed)
    if begun is None or begun == precision_of(embed):
        return now
    log.info(
        "embed: goes on in %s as the run was begun (here auto would be %s: a new run, or embed.precision)",
        begun, precision_of(embed),
    )  # fmt: skip
    return now.model_copy(update={"embed": embed.model_copy(update={"precision": begun})})


def note(run: RunFolder, embed: Embed) -> None:
    """Write down the precision before the first vector is made: a run that is interrupted goes on in it."""
    said = {"model": embed.model, "pretrained": embed.pretrained, "precision": precision_of(embed)}
    if storage.read_json(run.work / _RECORD) != said:
        storage.write_record(run.work / _RECORD, said)


def _begun(run: RunFolder, embed: Embed) -> str | None:
    """Return the precision of the vectors that a run has, or began to make; None where there is none.

    Runs of before this was noted, of which `embed` was never finished, are in single precision unless the machine has a GPU.
    """
    marker = run.marker(run.embeddings) or {}
    for said in (marker.get("facts", {}).get("space"), storage.read_json(run.work / _RECORD)):
        if isinstance(said, dict) and all(
            said.get(key) == getattr(embed, key) for key in ("model", "pretrained")
        ):
            return str(said["precision"])
    if not any(run.embeddings.glob("part-*")):
        return None
    now = precision_of(embed)
    return "float32" if now == "bfloat16" else now
