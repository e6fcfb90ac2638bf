"""The command `search`: the samples relevant to a text, or nearest to an image, a vector or a sample."""

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
    threshold: Annotated[
        float,
        Option("--threshold", help="The least relevance to a text, 0 to 1; 0 for the best of what there is."),
    ] = 0.5,
    json_: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Find the samples of a run that a text names, or nearest to an image, a vector or a sample, with what became of them."""
    from curate.analysis.search import Query, judged_search

    query = Query(text, image, vector, uid)
    found, answer = judged_search(run, query, top=top, on=on, concept=concept, kept=kept, threshold=threshold)
    rows = found.to_dicts()
    if json_:
        emit(rows)
        return
    judged = [] if answer is None else ["relevance"]
    header = [*judged, "similarity", "uid", "concept", "decision", "caption", "where"]
    print_table(
        header,
        [[*(row[name] for name in [*judged, "similarity", "uid", "concept"]), *_told(row)] for row in rows],
    )
    if answer is not None and not rows:
        note(f"nothing fits {text!r}: {answer.why_empty()}; --threshold 0 shows the best of what there is")
    elif not rows:
        note("no sample was found: none is in what was asked for")


def _told(row: dict[str, Any]) -> list[str | None]:
    """Return decision, caption (else label) and place of a sample."""
    words = " ".join((row["caption"] or row["label"] or "").split())
    words = words if len(words) <= MAX_TEXT else f"{words[: MAX_TEXT - 3]}..."
    return [row["reason"], words or None, f"{row['shard']}:{row['row']}"]
