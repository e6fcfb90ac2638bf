"""Command that says why one sample was kept or dropped: explain."""

from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.output import emit, plain, print_table, write


@app.command()
def explain(
    run: flag.RunPlace,
    which: Annotated[
        str,
        typer.Argument(
            metavar="SAMPLE",
            help="The sample: its uid (or how it begins), file name, path, URL or key, shard:row, or the number of "
            "its row over all shards.",
        ),
    ],
    json_: flag.Json = False,
) -> None:
    """Say why a sample was kept or dropped, and which budget would decide otherwise."""
    from curate.analysis.explain import explain as explained
    from curate.report.explained import lines

    facts = explained(run, which)
    if json_:
        emit(facts)
        return
    for line in lines(facts):
        write(f"{plain(line)}\n")
    if facts.get("scores"):
        write("\n")
        names = ("score", "value", "percentile", "higher_is", "status")
        print_table(names, [[row.get(name) for name in names] for row in facts["scores"]])
