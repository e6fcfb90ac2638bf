"""Which tables of a run are finished, and their parts in the order of the source."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import RunError
from curate.io import storage
from curate.io.yaml import read_yaml
from curate.runs.folder import RunFolder
from curate.runs.layout import is_refitted, marked_stages, score_folders

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "beside",
    "counted_by",
    "facts",
    "finished_families",
    "folders",
    "missing",
    "part_names",
    "require",
    "shown_families",
    "stage_facts",
    "table",
]


def facts(run: RunFolder, folder: Path) -> dict[str, Any]:
    """Return what a finished stage noted about itself; empty if it is not finished."""
    return dict((run.marker(folder) or {}).get("facts", {}))


def finished_families(run: RunFolder) -> list[str]:
    """Return the families (folders in 3_scores) that the recipe asks for and that are finished."""
    asked = score_folders(read_yaml(run.recipe_text()))
    return [name for name in asked if run.marker(run.scores(name)) is not None]


def shown_families(run: RunFolder) -> list[str]:
    """Return the finished families, without those that nobody needs and that have no row to score."""
    return [name for name in finished_families(run) if not facts(run, run.scores(name)).get("idle")]


def counted_by(run: RunFolder) -> tuple[str, ...]:
    """Return the columns of the source that the recipe groups or counts rows by."""
    recipe = read_yaml(run.recipe_text()) or {}
    select, shown = recipe.get("select") or {}, recipe.get("report") or {}
    floor = [select["floor_per"]] if select.get("floor") is not None and "floor_per" in select else []
    named = [*floor, *([select["per"]] if "per" in select else []), *shown.get("by", ())]
    return tuple(dict.fromkeys(name for name in named if name not in ("label", "source", "split", "concept")))


def folders(run: RunFolder) -> dict[str, Path]:
    """Return the folder that each stage marks, the score families among them, in order."""
    recipe = read_yaml(run.recipe_text())
    return run.stages(marked_stages(score_folders(recipe), refitted=is_refitted(recipe)))


def stage_facts(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return what each stage noted about itself, the score families among them, in order."""
    return {name: facts(run, folder) for name, folder in folders(run).items()}


def missing(run: RunFolder) -> list[str]:
    """Return the stages that are not finished, in order; the score stage as its families."""
    return [name for name, folder in folders(run).items() if run.marker(folder) is None]


def part_names(run: RunFolder, folder: Path) -> list[str]:
    """Return the parts of a finished table in the order of the source; none if it is not finished.

    folder : the one that is marked, so `concepts` for the assignments.
    """
    files = (Path(name) for name in (run.marker(folder) or {}).get("files", ()))
    names = {file.stem.removeprefix("part-") for file in files if file.name.startswith("part-")}
    saved = storage.read_json(run.work / "parts.json")
    order = {row["name"]: place for place, row in enumerate(saved)} if isinstance(saved, list) else {}
    return sorted(names, key=lambda name: (order.get(name, len(order)), name))


def require(run: RunFolder, folder: Path) -> None:
    """Raise RunError unless the stage of `folder` is finished."""
    if run.marker(folder) is None:
        name = "0_samples" if folder == run.work / "keys" else str(folder.relative_to(run.path))
        raise RunError(f"{run.where}: {name} is not there yet; finish the run first: curate run {run.recipe}")


def table(run: RunFolder, folder: Path, part: str, columns: list[str]) -> "pl.DataFrame":
    """Return some columns of one part of a table."""
    import polars as pl

    return pl.DataFrame(storage.read_table(run.part(folder, part), columns))


def beside(
    run: RunFolder, part: str, columns: list[str], decided: list[str], *, usable: bool
) -> "pl.DataFrame":
    """Return columns of the samples of a part, those of the decisions beside them where there are any.

    usable : only the samples that have vectors, in the order of the embeddings. Raises RunError where the two
    tables are not about the same rows.
    """
    import polars as pl

    wanted = list(dict.fromkeys(["uid", *columns, *(("outcome", "copy_of") if usable else ())]))
    frame = table(run, run.samples, part, wanted)
    if decided and run.marker(run.decisions) is not None:
        other = table(run, run.decisions, part, ["uid", *decided])
        if not frame["uid"].equals(other["uid"]):
            raise RunError(f"{run.part(run.decisions, part)}: its rows are not those of 0_samples; run again")
        frame = frame.hstack([other[name].alias(f"decided_{name}") for name in decided])
    if usable:
        frame = frame.filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null())
    return frame
