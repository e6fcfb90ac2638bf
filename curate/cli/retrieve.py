"""The command `retrieve`: a subset of a run for each of some names."""

from pathlib import Path
from typing import Annotated

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note, print_table, write


@app.command()
def retrieve(
    run: flag.RunPlace,
    concepts: Annotated[
        Path, Option("--concepts", metavar="FILE", help="A text file with the names to look for, one a line.")
    ],
    out: Annotated[
        str, Option("--out", help="The folder to write, here or at a URL; only such a folder is replaced.")
    ],
    threshold: Annotated[
        float | None, Option("--threshold", help="The least relevance, 0 to 1; 0.5 by default.")
    ] = None,
    top: Annotated[int | None, Option("--top", help="At most so many of each name.")] = None,
    precision: Annotated[
        float | None,
        Option(
            "--precision",
            help="In place of --threshold: how much should be right, as estimated without labels.",
        ),
    ] = None,
    alone: Annotated[
        bool, Option("--alone", help="Judge each name by itself: an image may be of several.")
    ] = False,
    form: Annotated[
        str, Option("--format", help="Of the lists of uids: txt, uids (Parquet) or npy (DataComp).")
    ] = "txt",
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Find the images of each of some names, and write one subset for each; nothing in the run changes."""
    from curate.analysis.retrieval.retrieve import Asked, read_names
    from curate.analysis.retrieval.retrieve import retrieve as find
    from curate.writers.retrieved import check_retrieved_place, write_retrieved

    asked = Asked(read_names(concepts), threshold, top, precision, not alone)
    place = check_retrieved_place(run, out, form)
    found = find(run, asked)
    write_retrieved(found, place, form)
    rows = found.concepts.to_dicts()
    if json_:
        emit({"threshold": found.threshold, **found.facts, "concepts": rows})
        return
    if quiet:
        return
    shown = ["concept", "found", "estimated_precision", "labelled", "precision", "recall", "why_empty"]
    shown = [name for name in shown if any(row[name] is not None for row in rows)]
    print_table([name.replace("_", " ") for name in shown], [[row[name] for name in shown] for row in rows])
    write(f"\n{len(found.rows):,} images of {len(rows):,} names, relevance {found.threshold:g} and above\n")
    if found.facts["decided_by"] == "captions":
        note("the model cannot tell what fits here: the words of captions decided")
    note(f"written: {place.where}")
