"""Command that writes a finished run in another format: export."""

from pathlib import Path
from typing import Annotated

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, progress, write


@app.command()
def export(
    run: flag.RunPlace,
    form: Annotated[
        str,
        Option(
            "--format",
            help="Folders: parquet, webdataset, dropped (rows not kept), links or copies of images. Files: npy "
            "(DataComp), txt, uids, names, csv, open_clip, coco (or a folder of several), card.",
        ),
    ],
    out: Annotated[
        str,
        Option("--out", help="The folder or file to write, here or at a URL; only an export is replaced."),
    ],
    columns: Annotated[
        flag.Text,
        Option(
            "--columns", help="Columns to add to the shards: uid,weight; to a csv also those of the source."
        ),
    ] = None,
    rows: Annotated[
        flag.Text,
        Option("--rows", help="txt, names, csv: kept, dropped or all rows; of a csv all by default."),
    ] = None,
    max_shard_size: Annotated[flag.Text, Option("--max-shard-size", help="About: 500MB.")] = None,
    weight_groups: Annotated[
        int | None, Option("--weight-groups", help="webdataset: so many groups of tars by weight.")
    ] = None,
    set_: flag.Set = None,
    workers: flag.Workers = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Write what a run decided in another format; nothing is computed anew."""
    from curate.pipeline.export import export_recipe, export_run, export_settings

    settings = export_settings(
        form,
        columns=None if columns is None else columns.split(","),
        max_shard_size=max_shard_size,
        weight_groups=weight_groups,
        workers=workers,
    )
    recipe = export_recipe(run, settings, set_ or ())
    with progress(quiet=quiet) as report, logged(quiet=quiet):
        done = export_run(recipe, form, out, rows=rows, progress=report)
    if json_:
        emit({"run": recipe.run, "format": form, "out": done.target, "rows": done.rows, "files": done.files})
        return
    if quiet:
        return
    write(f"{done.target}\n")
    note(f"{form}: {done.rows:,} rows in {done.files:,} files")
    line = Path(done.target, "train_data.txt")
    if form == "webdataset" and line.exists():
        note(f"for open_clip, in {done.target}: {line.read_text(encoding='utf-8').strip()}")
