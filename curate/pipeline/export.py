"""Exports: what a finished run decided, in other formats. Nothing is computed anew."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from curate.errors import RunError, UsageError
from curate.execution import context as base
from curate.execution.context import Context, Progress
from curate.execution.engines.choice import make_engine
from curate.execution.parts import with_parts
from curate.io import publish, storage
from curate.pipeline.settable import require_settable
from curate.pipeline.stages import write
from curate.recipe import Recipe
from curate.recipe.build import given
from curate.recipe.loading import load_recipe
from curate.runs.folder import folder_of
from curate.runs.run import open_run
from curate.writers import subsets
from curate.writers.selected_rows import Kept

__all__ = ["FILES", "FOLDERS", "Exported", "export_recipe", "export_run", "export_settings"]

#: Formats that are a folder of shards.
FOLDERS = ("parquet", "webdataset", "dropped")
#: Formats that are one file, and what they are.
FILES = {
    "npy": "DataComp subset file, weights as repeats",
    "txt": "one uid a line",
    "uids": "Parquet with uid and weight",
    "card": "README.md with the Hugging Face header",
}


@dataclass(frozen=True)
class Exported:
    """What was written where (a path, or a URL as text): rows (of a list: entries) and data files."""

    target: Path | str
    rows: int
    files: int


def export_settings(
    form: str,
    *,
    columns: Sequence[str] | None = None,
    max_shard_size: str | int | None = None,
    weight_groups: int | None = None,
    workers: int | None = None,
) -> dict[str, object]:
    """Return the settings of an export, for `export_recipe`; what is None stays as the run has it."""
    settings: dict[str, object] = {
        "write.columns": columns, "write.max_shard_size": max_shard_size, "workers": workers,
        "write.format": form if form in ("parquet", "webdataset") else None, "write.weight_groups": weight_groups,
    }  # fmt: skip
    settings = given(settings)
    if form != "webdataset" and weight_groups is None:
        settings["write.weight_groups"] = None  # a setting of the run's own tars
    return settings


def export_recipe(
    run: str | Path, settings: Mapping[str, object] | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """Return the recipe of a run, with other settings of how to write it (``write.columns``, ``a.b=value``).

    The copies that the run's own recipe asks for (`write.path`, `write.dropped`) are left out. Raises UsageError
    where `run` is no run, RecipeError for a setting that is wrong.
    """
    folder = open_run(run).folder
    fixed = {"run": folder.where, "write.path": None, "write.dropped": None}
    given_names = [item.partition("=")[0].strip() for item in overrides]
    if places := sorted(fixed.keys() & set(given_names)):
        raise UsageError(
            f"{places[0]} cannot be set by curate export: it writes to the place named on its command line"
        )
    before = load_recipe(folder.recipe).model_dump(mode="json")
    recipe = load_recipe(folder.recipe, overrides, settings={**(settings or {}), **fixed})
    require_settable("export", before, recipe, overrides, {})
    return recipe


def export_run(recipe: Recipe, form: str, out: str | Path, *, progress: Progress = base.silent) -> Exported:
    """Write what a run decided as `form` (of FOLDERS or FILES) to `out`; replaces only an earlier export.

    out : a path, or a URL, opened with the recipe's `write.storage_options`. recipe : of `export_recipe`. The decisions are those the run has now, also where its own shards are older.
    Raises UsageError for another form, and for a target that holds anything else; RunError for a run without
    decisions, or whose decisions change meanwhile.
    """
    if form not in (*FOLDERS, *FILES):
        raise UsageError(f"--format must be one of {', '.join((*FOLDERS, *FILES))}, got {form!r}")
    run = folder_of(recipe)
    place = publish.Place("--out", str(out), run.work, recipe.write.storage_options)
    before = run.fingerprint(run.decisions)
    write.check_recipe(recipe)
    (publish.require_own_folder if form in FOLDERS else publish.require_own_file)(place)
    with make_engine(recipe) as engine:
        context = with_parts(Context(recipe, run, engine, progress=progress))

        def unchanged(path: Path, make: Callable[[Path], Exported]) -> Exported:
            made = make(path)
            run.follow()
            if (run.marker(run.decisions) or {}).get("fingerprint") != before:
                raise RunError(f"{run.where}: its decisions changed during the export; export again")
            return made

        if form in FOLDERS:
            make = partial(unchanged, make=partial(_shards, context, form))
            made = publish.write_folder(place, before, make)
        else:
            made = publish.write_file(place, partial(unchanged, make=partial(_file, context, form)))
    return replace(made, target=place.where if place.remote else place.path)


def _shards(context: Context, form: str, folder: Path) -> Exported:
    settings = context.recipe.write
    writer = write.dropped_shards if form == "dropped" else write.write_shards
    written = writer(context, settings, folder)
    return Exported(folder, written.rows, written.files)


def _file(context: Context, form: str, path: Path) -> Exported:
    kept = Kept(context).uids()
    if form == "npy":
        rows = subsets.write_npy(path, kept, context.recipe.seed)
    elif form == "txt":
        rows = subsets.write_text(path, kept)
    elif form == "uids":
        rows = subsets.write_parquet(path, kept)
    else:
        text = write.planned_card(context, context.recipe.write)
        with storage.atomic(path) as new:
            new.write_text(text, encoding="utf-8")
        rows = int(context.facts(context.run.decisions)["kept"])
    return Exported(path, rows, 1)
