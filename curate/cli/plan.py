"""Command that says what other settings would give: plan."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note, plain, print_table, write
from curate.errors import UsageError


@app.command()
def plan(
    run: flag.RunPlace,
    keep: Annotated[flag.Text, Option("--keep", help="Shares to look at: 0.1,0.2 or 10%.")] = None,
    epsilon: Annotated[
        flag.Text, Option("--epsilon", help="Epsilons to look at: 0.01,0.05; with --pairs one of them.")
    ] = None,
    temperature: Annotated[flag.Text, Option("--temperature", help="Temperatures to look at: 0.1,1.")] = None,
    pairs: Annotated[
        int | None, Option("--pairs", min=1, help="Show so many pairs around the epsilon, to look at.")
    ] = None,
    epochs: Annotated[float, Option("--epochs", help="Passes over the data in training.")] = 1.0,
    samples_per_epoch: Annotated[
        int | None, Option("--samples-per-epoch", help="Samples of an epoch, whatever is kept.")
    ] = None,
    concepts: Annotated[int, Option("--concepts", min=0, help="How many concepts to list.")] = 10,
    plot: Annotated[
        Path | None, Option("--plot", metavar="FILE", help="Draw it: a page (.html) or an image (.png).")
    ] = None,
    json_: flag.Json = False,
) -> None:
    """Say what other shares, epsilons and temperatures would give; nothing is computed anew."""
    from curate.analysis import plan as planning

    if pairs is not None:
        _show_pairs(run, pairs, epsilon, json_)
        return
    _check_plot(plot)
    found = planning.plan(
        run,
        keep=_numbers("--keep", keep),
        epsilon=_numbers("--epsilon", epsilon),
        temperature=_numbers("--temperature", temperature),
        epochs=epochs,
        samples_per_epoch=samples_per_epoch,
    )
    if plot is not None:
        planning.draw(found, plot)
    if json_:
        emit(found)
    else:
        _show(found, concepts)
    if plot is not None:
        note(f"open: {plot}")


def _numbers(name: str, text: str | None) -> list[float]:
    """Return numbers or percentages from a list such as ``0.1,20%``, each once, in order."""
    from curate.recipe.types import parse_share

    try:
        return sorted({parse_share(one) for one in (text or "").split(",") if one.strip()})
    except ValueError as error:
        raise UsageError(f"{name} takes numbers such as 0.1,0.2: one {error}") from None


def _check_plot(plot: Path | None) -> None:
    """Raise UsageError before any work where the plot cannot be written."""
    if plot is None:
        return
    if plot.suffix.lower() not in (".html", ".png"):
        raise UsageError(f"--plot must end with .html or .png, got {plot}")
    if not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot: there is no folder {plot.absolute().parent}")


def _show(found: Mapping[str, Any], concepts: int) -> None:
    """Print the tables, one after the other."""
    rows, now = found["rows"], found["now"]
    kept = found["keep"]
    titles: list[tuple[str, Callable[[], Sequence[Mapping[str, Any]]]]] = [
        (
            f"keep, of {rows['base']:,} {found['of']} rows ({rows['eligible']:,} eligible); now {now['count']:,} kept",
            lambda: [{name: value for name, value in entry.items() if name != "budgets"} for entry in kept],
        ),
        (f"rows kept by concept, the {concepts} largest", lambda: list(_by_concept(found, concepts))),
        ("epsilon: rows that dedup drops", lambda: found["epsilon"]),
        ("temperature: shares aimed at, and budgets of the rows kept now", lambda: found["temperature"]),
        ("cost in training samples", lambda: found["cost"]),
    ]
    for title, lines in titles:
        table = lines()
        if table:
            names = list(dict.fromkeys(name for line in table for name in line))
            write(f"{plain(title)}\n")
            print_table(names, [[_short(line.get(name)) for name in names] for line in table])
            write("\n")
    if found["effective"] is not None:
        write(f"weights: the kept rows count as {found['effective']:,.0f} equal ones\n")
    for text in found["notes"]:
        note(f"note: {text}")


def _by_concept(found: Mapping[str, Any], most: int) -> Iterator[dict[str, Any]]:
    """Yield one row per concept, the largest first: its size, and what each share keeps of it."""
    shown = [entry for entry in found["keep"] if entry["budgets"] is not None]
    order = sorted(range(len(found["concepts"])), key=lambda j: -found["concepts"][j]["n_eligible"])
    for place in order[:most]:
        one = found["concepts"][place]
        yield {
            "concept": one["concept"], "rows": one["n_eligible"], "complexity": one["complexity"], "now": one["kept"],
            **{f"{entry['keep']:g}": entry["budgets"][place] for entry in shown},
        }  # fmt: skip


def _short(value: object) -> object:
    """Return a number such as 0.001 as text, so that a table does not round it to nothing."""
    return f"{value:.4g}" if isinstance(value, float) else value


def _show_pairs(run: str, count: int, epsilon: str | None, json_: bool) -> None:
    """Print pairs around one epsilon."""
    from curate.analysis import plan as planning

    given = _numbers("--epsilon", epsilon)
    if len(given) > 1:
        raise UsageError(f"--epsilon takes one number with --pairs, got {epsilon}")
    found = planning.pairs(run, count, given[0] if given else None)
    if json_:
        emit({"run": run, "pairs": found})
        return
    for pair in found:
        said = "duplicates" if pair["duplicate"] else "different"
        write(f"{pair['similarity']:.6f}  {said}, concept {pair['concept']}\n")
        for name in ("one", "other"):
            one = pair[name]
            if one is not None:
                about = " ".join(f"{one[key][:80]!r}" for key in ("label", "caption") if one[key])
                write(
                    f"  {plain(one['uid'])}  {plain(one['shard'])}:{one['row']}  {plain(about)}".rstrip()
                    + "\n"
                )
    if not found:
        note("no pairs: no concept has two rows that were compared")
