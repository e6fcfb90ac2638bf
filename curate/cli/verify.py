"""The command `verify`: is a run what it says it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.output import emit, note, plain, write
from curate.errors import RunError

__all__ = ["note_changed"]


@app.command()
def verify(
    run: flag.RunPlace,
    digest: Annotated[
        bool, typer.Option("--digest", help="Print the SHA-256 of the decisions, sorted by uid.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Check every file of a run against its recorded hash, every count, and what must hold of its tables."""
    from curate.analysis.verify.verify import check_run, decisions_digest

    if digest and not json_:
        write(f"{decisions_digest(run)}\n")
        return
    found = check_run(run)
    if json_:
        emit({**vars(found), "digest": decisions_digest(run) if digest and not found.violations else None})
    else:
        for line in found.violations:
            write(f"{plain(line)}\n")
    if found.violations:
        count = len(found.violations)
        raise RunError(
            found.violations[0] if count == 1 else f"{run}: {count:,} things are wrong, each named above"
        )
    if not json_:
        write(f"{plain(str(run))}: {found.files:,} files and {found.rows:,} rows are as recorded\n")
        note_changed(found.path, found.changed)


def note_changed(run: Path | str, changed: Sequence[str]) -> None:
    """Say that the shards are not those of the decisions, where it is so."""
    if changed:
        note(
            f"warning: {', '.join(changed)} changed after the shards and the report were written; "
            f"to write them anew: curate run {run}/recipe.yaml"
        )
