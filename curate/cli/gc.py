"""The command `gc`: remove old dated runs, and what only they needed."""

from pathlib import Path
from typing import Annotated

import typer

from curate.cli.app import app
from curate.cli.output import bytes_text, emit, note, plain, write


@app.command()
def gc(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="The folder of the dated runs.")],
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Keep the newest N finished runs.")
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", min=0, help="Keep the runs of the last D days.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Remove old dated runs, and parts in their store that no run lists any more; never the latest run."""
    from curate.runs.gc import gc as collect

    freed = collect(root, keep=keep, days=days, dry_run=dry_run)
    if json_:
        emit({**vars(freed), "dry_run": dry_run})
        return
    for name in freed.runs:
        write(f"{plain(str(root / name))}\n")
    for name in freed.in_use:
        note(f"{root / name} is being written and stays")
    said = "would be removed" if dry_run else "removed"
    note(
        f"{root}: {len(freed.runs):,} runs and {freed.parts:,} parts {said}, {bytes_text(freed.bytes)}; "
        f"{len(freed.kept):,} runs stay"
    )
