"""The command `evaluate`: whether what a run keeps is better than random rows."""

from collections.abc import Mapping
from typing import Annotated, Any

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, logged, note, plain, progress, write, write_as_it_is


@app.command()
def evaluate(
    run: flag.RunPlace,
    split: Annotated[
        flag.Text,
        Option(
            "--split", help="Judge by the rows of this split (of files, or of a column; or COLUMN=VALUE)."
        ),
    ] = None,
    holdout: Annotated[
        flag.Text,
        Option("--holdout", help="Judge by a random share that leaves the pool first; 10% by default."),
    ] = None,
    seed: Annotated[
        int | None,
        Option("--seed", min=0, help="Of the rows held out, the random draws and the models; 0 by default."),
    ] = None,
    judge: Annotated[
        flag.Text,
        Option(
            "--judge",
            help="heads (on the vectors, a quick look), pixels (a network from scratch), pairs (of images and captions), or "
            "auto (the default): pixels where small images have labels.",
        ),
    ] = None,
    keep: Annotated[
        flag.Text, Option("--keep", help="Shares to compare at: 0.1,0.2,0.5; that of the run by default.")
    ] = None,
    methods: Annotated[
        flag.Text,
        Option(
            "--methods",
            help="Methods to compare: density,random,hardest:el2n; run (the default) selects as the run does.",
        ),
    ] = None,
    draws: Annotated[
        int | None, Option("--draws", help="Random draws of the same size, at least 5 (the default).")
    ] = None,
    seeds: Annotated[
        int | None, Option("--seeds", help="Models per subset, at least 2; 3 by default.")
    ] = None,
    steps: Annotated[
        int | None, Option("--steps", help="Steps that every model is trained for; 500 by default.")
    ] = None,
    near: Annotated[
        float | None,
        Option("--near", help="Held-out rows more similar than 1 - NEAR to a row of the pool judge nothing."),
    ] = None,
    device: Annotated[str, Option("--device", help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[
        int | None, Option("--workers", min=1, help="Models trained at a time; one per core.")
    ] = None,
    out: Annotated[
        flag.Text, Option("--out", help="The folder for tables and page; evaluation in the run by default.")
    ] = None,
    json_: flag.Json = False,
    quiet: flag.Quiet = False,
) -> None:
    """Train one model on what a run keeps, on random draws of that size and on everything, and compare them.

    What no flag says is as the section evaluate of the run's recipe has it.
    """
    from curate.evaluation.evaluate import evaluate_run
    from curate.evaluation.files import check_out, out_folder, write_evaluation
    from curate.evaluation.request import make_request
    from curate.pipeline.rescore import chosen_recipe
    from curate.runs.run import open_run

    folder = open_run(run).folder
    request = make_request(
        chosen_recipe(run).evaluate, judge=judge, split=split, holdout=holdout, seed=seed, keep=_listed(keep), methods=_listed(methods), draws=draws,
        seeds=seeds, steps=steps, near=near, device=device, workers=workers,
    )  # fmt: skip
    check_out(folder, out)
    with progress(quiet=quiet) as show, logged(quiet=True):
        found = evaluate_run(run, request, progress=show)
        write_evaluation(found, out_folder(folder, out))
    if json_:
        emit(found.summary)
    elif not quiet:
        _show(found.summary)
    if not quiet:
        note(f"open: {out_folder(folder, out) / 'evaluation.html'}")


def _listed(text: str | None) -> list[str]:
    """Return the parts of a list with commas; none where nothing is given."""
    return [] if text is None else [one.strip() for one in text.split(",") if one.strip()]


def _show(found: Mapping[str, Any]) -> None:
    """Print the table, and what it says."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from curate.report.evaluation_figure import table

    held = found["held_out"]
    write(f"judge: {found['judge']}, {found['judged_by']}\n")
    write(
        f"held out: {plain(held['how'])}: {held['judging']:,} rows judge; {found['all']['rows']:,} in the pool; "
        f"{found['steps']:,} steps, {found['seeds']} seeds\n\n"
    )
    header, lines = table(found)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, word in enumerate(header):
        shown.add_column(word, justify="left" if number == 0 else "right", no_wrap=True)
    for line in lines:
        shown.add_row(*(_cell(Text, cell) for cell in line))
    console = Console(width=max(200, Console().width))
    with console.capture() as text:
        console.print(shown)
    write_as_it_is("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))
    write("\n± 95 % over seeds (of random: over draws); * beyond what chance alone gives a random draw\n\n")
    for line in found["says"]:
        write(f"{plain(line)}\n")


def _cell(kind: Any, text: str) -> Any:  # noqa: ANN401  (rich's Text, which is loaded where it is used)
    """Return a cell, coloured where chance does not explain a difference."""
    style = "" if not text.endswith("*") else "green" if text.startswith("+") else "red"
    return kind(plain(text), style=style)
