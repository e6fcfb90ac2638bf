"""Exports: what a finished run decided, in other formats. Nothing is computed anew."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from curate.errors import RunError, UsageError
from curate.execution import context as base
from curate.execution.context import Context, Progress, log
from curate.execution.engines.choice import make_engine
from curate.execution.parts import with_parts
from curate.io import publish, storage
from curate.io.filesystem import is_remote
from curate.pipeline.settable import require_settable
from curate.pipeline.stages import write
from curate.recipe import Recipe
from curate.recipe.build import given
from curate.recipe.loading import load_recipe
from curate.runs.folder import RunFolder, folder_of
from curate.runs.run import open_run
from curate.settings import local_folder
from curate.sources.base import Shard
from curate.writers import subsets
from curate.writers.exports.coco_json import ENDS as COCO_ENDS
from curate.writers.exports.coco_json import require_coco, write_coco
from curate.writers.exports.decisions_csv import write_csv
from curate.writers.exports.image_files import ImageFile, KeptImages
from curate.writers.exports.image_folder import ImageFolder, check_outside
from curate.writers.exports.listed_rows import CHOICES, Choice, ListedRows
from curate.writers.exports.open_clip import write_open_clip
from curate.writers.relabelled import relabelled
from curate.writers.selected_rows import Kept

__all__ = [
    "EXPORTS", "FILES", "FOLDERS", "Exported", "export_recipe", "export_run", "export_settings", "noted_exports",
]  # fmt: skip

#: Formats that are a folder of shards.
SHARDS = ("parquet", "webdataset", "dropped")
#: Formats that are a folder.
FOLDERS = (*SHARDS, "links", "copies")
#: Formats that are one file, and what they are.
FILES = {
    "npy": "DataComp subset file, weights as repeats",
    "txt": "one uid a line",
    "uids": "Parquet with uid and weight",
    "names": "one file name, key or URL a line",
    "csv": "uid, name, place, decision and other columns of every row",
    "open_clip": "file and caption of every kept image, for --dataset-type csv",
    "coco": "COCO JSON without the images and annotations that are not kept; a folder of them where the source has several",
    "card": "README.md with the Hugging Face header",
}
#: Formats that take columns, and those that list rows and so the dropped ones too.
WITH_COLUMNS = ("parquet", "webdataset", "csv")
LISTS = ("txt", "names", "csv")
#: The file of a run that remembers its exports.
EXPORTS = "exports.json"


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
    if columns is not None and form in (*FOLDERS, *FILES) and form not in WITH_COLUMNS:
        raise UsageError(f"--columns is for --format {', '.join(WITH_COLUMNS)}; {form} has none to choose")
    if form == "csv":
        columns = columns or ()  # those of the run are for its shards
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


def export_run(
    recipe: Recipe,
    form: str,
    out: str | Path,
    *,
    rows: str | None = None,
    progress: Progress = base.silent,
) -> Exported:
    """Write what a run decided as `form` (of FOLDERS or FILES) to `out`; replaces only an earlier export.

    out : a path, or a URL, opened with the recipe's `write.storage_options`. recipe : of `export_recipe`. rows : which
    rows a list (of LISTS) names; csv all, the others the kept ones by default. The decisions are those the run has
    now, also where its own shards are older. Raises UsageError for another form, and for a target that holds anything
    else; RunError for a run without decisions, or whose decisions change meanwhile.
    """
    listed = _check_form(form, rows, str(out))
    run = folder_of(recipe)
    place = publish.Place("--out", str(out), run.work, recipe.write.storage_options)
    before = run.fingerprint(run.decisions)
    if form in SHARDS:
        write.check_recipe(recipe)
    is_folder = form in FOLDERS or (form == "coco" and not str(out).lower().endswith(COCO_ENDS))
    (publish.require_own_folder if is_folder else publish.require_own_file)(place)
    with make_engine(recipe) as engine:
        context = with_parts(Context(recipe, run, engine, progress=progress))

        def unchanged(path: Path, make: Callable[[Path], Exported]) -> Exported:
            made = make(path)
            run.follow()
            if (run.marker(run.decisions) or {}).get("fingerprint") != before:
                raise RunError(f"{run.where}: its decisions changed during the export; export again")
            return made

        if is_folder:
            make = partial(unchanged, make=partial(_folder, context, form, out))
            made = publish.write_folder(place, before, make)
        else:
            made = publish.write_file(place, partial(unchanged, make=partial(_file, context, form, listed)))
    made = replace(made, target=place.where if place.remote else place.path)
    note_export(run, form, made.target, rows, recipe)
    return made


def note_export(run: RunFolder, form: str, target: Path | str, rows: str | None, recipe: Recipe) -> None:
    """Remember where an export is, so that who forgets a sample finds it there too."""
    where = str(Path(target).resolve()) if isinstance(target, Path) else target
    settings = recipe.write.model_dump(mode="json", exclude={"storage_options", "path", "dropped"})
    others = [one for one in noted_exports(run) if one["out"] != where]
    storage.write_record(
        run.path / EXPORTS, [*others, {"out": where, "format": form, "rows": rows, "write": settings}]
    )


def noted_exports(run: RunFolder) -> list[dict[str, Any]]:
    """Return the exports of a run that it remembers: where, in which format, which rows, with which settings."""
    found = storage.read_json(run.path / EXPORTS)
    return list(found) if isinstance(found, list) else []


def _check_form(form: str, rows: str | None, out: str) -> Choice | None:
    """Return which rows are wanted; raise UsageError for what does not go together."""
    if form not in (*FOLDERS, *FILES):
        raise UsageError(f"--format must be one of {', '.join((*FOLDERS, *FILES))}, got {form!r}")
    choice = next((one for one in CHOICES if one == rows), None)
    if rows is not None and choice is None:
        raise UsageError(f"--rows must be one of {', '.join(CHOICES)}, got {rows!r}")
    if rows is not None and form not in LISTS:
        raise UsageError(f"--rows is for --format {', '.join(LISTS)}, not for {form}")
    if form == "links" and is_remote(out):
        raise UsageError(
            f"--out {out}: links lead to files on this machine; use --format copies, or a folder here"
        )
    return choice


def _folder(context: Context, form: str, out: str | Path, folder: Path) -> Exported:
    if form == "coco":
        return _coco_folder(context, folder)
    if form not in SHARDS:
        return _images(context, form, out, folder)
    settings = context.recipe.write
    writer = write.dropped_shards if form == "dropped" else write.write_shards
    written = writer(context, settings, folder)
    return Exported(folder, written.rows, written.files)


def _images(context: Context, form: str, out: str | Path, folder: Path) -> Exported:
    shards = list(Kept(context).shards())
    if not is_remote(str(out)):
        check_outside(Path(local_folder(str(out))), (shard for shard, _ in shards))
    images = KeptImages(context, form)
    new = ImageFolder(folder, links=form == "links", named=len(context.recipe.source) > 1)
    rows = 0
    for number, (shard, parts) in enumerate(shards):
        context.progress(form, number, len(shards), "shards")
        for part in parts:
            rows += new.add(shard, images.of(part))
        new.describe(shard, Kept(context).by_name(shard.name).rows)
    context.progress(form, len(shards), len(shards), "shards")
    _tell_missing(images, rows)
    return Exported(folder, rows, len(publish.files_in(folder)))


def _tell_missing(images: KeptImages, found: int) -> None:
    """Warn about kept samples without a file; raise UsageError where none has one."""
    if images.missing:
        where = f", such as {images.example}" if images.example else ""
        said = f"the files of {images.missing:,} kept images are not there{where}"
        if not found:
            raise UsageError(f"{said}; bring them back, or name their folder in source.root")
        log.warning("export: %s; they are left out", said)


def _file(context: Context, form: str, rows_of: Choice | None, path: Path) -> Exported:
    kept = Kept(context).uids()
    if form == "npy":
        weight = context.recipe.weight
        rows = subsets.write_npy(path, kept, context.recipe.seed, None if weight is None else weight.counts)
    elif form == "txt":
        rows = subsets.write_text(path, _texts(context, form, rows_of))
    elif form == "names":
        rows = subsets.write_text(path, _texts(context, form, rows_of), "name", "csv")
    elif form == "csv":
        listed = ListedRows(context, rows_of or "all", context.recipe.write.columns, relabelled(context))
        listed.check()
        rows = write_csv(path, listed.frames())
    elif form == "open_clip":
        rows = _open_clip(context, path)
    elif form == "coco":
        rows = _coco_file(context, path)
    elif form == "uids":
        rows = subsets.write_parquet(path, kept)
    else:
        text = write.planned_card(context, context.recipe.write)
        with storage.atomic(path) as new:
            new.write_text(text, encoding="utf-8")
        rows = int(context.facts(context.run.decisions)["kept"])
    return Exported(path, rows, 1)


def _texts(context: Context, form: str, rows_of: Choice | None) -> Iterator[list[str]]:
    """Yield the uids or names of rows; warn where rows have no name, and raise UsageError where none has one."""
    total = without = 0
    for some in ListedRows(context, rows_of or "kept").texts("uid" if form == "txt" else "key"):
        named = [one for one in some if one]
        total, without = total + len(some), without + len(some) - len(named)
        yield named
    if without and without == total:
        raise UsageError(
            "the source gives its samples no names (file names, keys, URLs); use --format txt or csv"
        )
    if without:
        log.warning("export: %s of %s rows have no name; they are left out", f"{without:,}", f"{total:,}")


def _open_clip(context: Context, path: Path) -> int:
    images = KeptImages(context, "open_clip")

    def samples() -> Iterator[ImageFile]:
        for number, part in enumerate(context.parts):
            context.progress("open_clip", number, len(context.parts), "parts")
            yield from images.of(part)
        context.progress("open_clip", len(context.parts), len(context.parts), "parts")

    rows, without = write_open_clip(path, samples())
    _tell_missing(images, rows + without)
    if without:
        log.warning("export: %s kept images have no caption; they are left out", f"{without:,}")
    return rows


def _coco_file(context: Context, path: Path) -> int:
    shards = _coco_shards(context)
    if len(shards) > 1:
        raise UsageError(
            f"--out {path.name}: the source has {len(shards):,} files ({shards[0].name}, {shards[1].name}, ...), and each "
            "becomes one of its name; name a folder"
        )
    return write_coco(path, shards[0], Kept(context).by_name(shards[0].name).rows.tolist())


def _coco_folder(context: Context, folder: Path) -> Exported:
    shards = _coco_shards(context)
    images = 0
    for number, shard in enumerate(shards):
        context.progress("coco", number, len(shards), "shards")
        (folder / shard.name).parent.mkdir(parents=True, exist_ok=True)
        images += write_coco(folder / shard.name, shard, Kept(context).by_name(shard.name).rows.tolist())
    context.progress("coco", len(shards), len(shards), "shards")
    return Exported(folder, images, len(shards))


def _coco_shards(context: Context) -> list[Shard]:
    shards = [shard for shard, _ in Kept(context).shards()]
    require_coco(shards)
    return shards
