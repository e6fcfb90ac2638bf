"""The command `inspect`: what a run decided, in the terminal, as JSON, or by SQL."""

from typing import Annotated, Literal

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import emit, note
from curate.cli.verify import note_changed
from curate.errors import UsageError

#: Rows of an answer to SQL that a terminal is given.
LIMIT = 50


@app.command()
def inspect(
    run: flag.RunPlace,
    concepts: Annotated[int, Option("--concepts", min=0, help="How many concepts a list has.")] = 5,
    sql: Annotated[
        str | None,
        Option("--sql", metavar="SELECT", help="Ask the tables: samples, scores, decisions, budgets, ..."),
    ] = None,
    limit: Annotated[
        int | None,
        Option(
            "--limit",
            min=0,
            help=f"Rows of an answer to --sql; 0: all. By default {LIMIT}; as JSON or CSV all.",
        ),
    ] = None,
    csv: Annotated[bool, Option("--csv", help="Print the answer to --sql as CSV.")] = False,
    no_formulas: Annotated[
        bool,
        Option("--no-formulas", help="With --csv: texts that a spreadsheet would compute get an apostrophe."),
    ] = False,
    against: Annotated[
        str | None,
        Option(
            "--against",
            metavar="COLUMN",
            help="How well every score tells where a column of true and false is true (AUC).",
        ),
    ] = None,
    json_: Annotated[bool, Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what a run decided: counts, concepts, scores, duplicates, groups, weights, diagnosis, times; or ask it by SQL."""
    from curate.analysis.inspect import inspect_run
    from curate.runs.run import open_run

    _check_flags(sql, limit, csv=csv, json_=json_)
    if against is not None:
        if sql is not None:
            raise UsageError("--against and --sql exclude each other")
        from curate.cli.diagnosis_output import show_against

        show_against(run, against, json_=json_)
        return
    if no_formulas and not csv:
        raise UsageError("--no-formulas is about CSV: give --csv too")
    opened = open_run(run)
    if sql is not None:
        from curate.cli.sql_output import answer

        shown = LIMIT if limit is None and not (csv or json_) else limit or None
        form: Literal["table", "json", "csv"] = "csv" if csv else "json" if json_ else "table"
        answer(opened.folder, sql, limit=shown, form=form, formulas=not no_formulas)
        return
    found = inspect_run(opened, concepts=concepts)
    if json_:
        emit(found)
        return
    from curate.cli.summary_output import show

    show(found)
    if found["missing"]:
        names = ", ".join(found["missing"])
        note(f"not there yet: {names}; to go on: curate run {opened.folder.recipe}")
    note_changed(run, found["changed"])


def _check_flags(sql: str | None, limit: int | None, *, csv: bool, json_: bool) -> None:
    """Raise UsageError for flags that say nothing together."""
    if sql is None and (csv or limit is not None):
        raise UsageError(f"{'--csv' if csv else '--limit'} is about an answer: give --sql too")
    if csv and json_:
        raise UsageError("--csv and --json exclude each other")
