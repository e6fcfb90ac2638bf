"""The command `name`: what the concepts of a run are called."""

from typing import Annotated

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note, print_table


@app.command()
def name(
    run: flag.RunPlace,
    vocabulary: Annotated[
        flag.Text,
        Option(
            "--vocabulary",
            metavar="FILE",
            help="Texts to name concepts by, one a line; by default captions do, or labels.",
        ),
    ] = None,
    json_: flag.Json = False,
) -> None:
    """Name the concepts of a run by what is said of one and not of others; its report and inspect show the names."""
    from curate.api.run import open_run

    names = open_run(run).name_concepts(vocabulary)
    if json_:
        emit({str(concept): text for concept, text in names.items()})
        return
    print_table(["concept", "name"], [[concept, text] for concept, text in names.items()])
    if not names:
        note(
            "nothing is said of one concept and not of others (captions, labels); --vocabulary FILE gives texts"
        )
