"""The command `search`: the samples nearest to a text, an image, a vector or a sample."""

from pathlib import Path
from typing import Annotated, Any

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note, print_table

MAX_TEXT = 60


@app.command()
def search(
    run: flag.RunPlace,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What to look for, in words.")] = None,
    image: Annotated[Path | None, Option("--image", help="Look for what this image shows.")] = None,
    vector: Annotated[
        Path | None,
        Option("--vector", metavar="FILE.npy", help="A vector of the same model: for own vectors."),
    ] = None,
    uid: Annotated[str | None, Option("--uid", help="Look for more like this sample.")] = None,
    on: Annotated[
        str, Option("--on", help="Compare with the vectors of: image, or text (captions).")
    ] = "image",
    top: Annotated[int, Option("--top", help="How many samples.")] = 20,
    concept: Annotated[int | None, Option("--concept", help="Only samples of this concept.")] = None,
    kept: Annotated[
        bool | None, Option("--kept/--dropped", help="Only samples that are kept, or only dropped ones.")
    ] = None,
    json_: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Find the samples of a run nearest to a text, an image, a vector or a sample, with what became of them."""
    from curate.analysis.search import Query
    from curate.analysis.search import search as find

    found = find(run, Query(text, image, vector, uid), top=top, on=on, concept=concept, kept=kept)
    rows = found.to_dicts()
    if json_:
        emit(rows)
        return
    header = ["similarity", "uid", "concept", "decision", "caption", "where"]
    print_table(header, [[row["similarity"], row["uid"], row["concept"], *_told(row)] for row in rows])
    if not rows:
        note("no sample was found: none is in what was asked for")


def _told(row: dict[str, Any]) -> list[str | None]:
    """Return decision, caption (else label) and place of a sample."""
    words = " ".join((row["caption"] or row["label"] or "").split())
    words = words if len(words) <= MAX_TEXT else f"{words[: MAX_TEXT - 3]}..."
    return [row["reason"], words or None, f"{row['shard']}:{row['row']}"]
