"""The command `forget`: samples are taken out of a run for good."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, print_table, progress
from curate.errors import UsageError


@app.command()
def forget(
    run: flag.RunPlace,
    uids: Annotated[
        list[str] | None, typer.Argument(metavar="[UIDS]", help="Samples, or @FILE with one uid a line.")
    ] = None,
    where: Annotated[
        flag.Text, Option("--where", help="All rows that meet a condition: \"owner = 'Ann'\".")
    ] = None,
    also: Annotated[
        list[str] | None,
        Option(
            "--also",
            metavar="PATH",
            help="A file or folder outside of the run to take them out of; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Take samples (a person's data, say) out of a run for good: rows, vectors, pictures, shards, exports, logs.

    Exact copies of them go too. The source is not touched: take them out there as well. Examples: curate forget RUN a1 b2
    --dry-run; curate forget RUN --where "owner = 'Ann'" --yes
    """
    from curate.pipeline.forget.forget import forget as forget_samples
    from curate.pipeline.forget.forget import found

    wanted = found(run, [uid for one in uids or [] for uid in flag.uids_of(one)], where)
    copies = len(wanted.uids) - wanted.named
    said = f"{wanted.named:,} samples, and {copies:,} exact copies of them; {wanted.near:,} near-duplicates of them stay"
    if dry_run:
        facts = {
            "run": run,
            "named": wanted.named,
            "copies": copies,
            "near": wanted.near,
            "uids": list(wanted.uids),
        }
        emit(facts) if json_ else note(f"{said}; nothing was changed")
        return
    if not yes and not typer.confirm(f"{said}. They cannot be brought back. Forget them?", err=True):
        raise typer.Abort
    for path in also or []:
        if not Path(path).exists():
            raise UsageError(f"--also {path}: there is no such file or folder")
    with progress(quiet=quiet) as report, logged(quiet=quiet):
        done = forget_samples(run, wanted, also=also or [], progress=report)
    if json_:
        emit({
            "run": done.run, "named": done.named, "copies": done.copies, "near": done.near, "removed": done.removed,
            "left": [{"where": where_, "places": n} for where_, n in done.left], "older_runs": done.older_runs,
        })  # fmt: skip
        return
    if quiet:
        return
    print_table(["where", "what", "n"], done.table())
    note(f"forgot {said}")
    note("the source was not touched: take them out there too, or they are read (and dropped) again")
    for name in done.older_runs:
        note(f"removed the dated run {name}, which held them")
