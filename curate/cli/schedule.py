"""Command that runs a recipe on a schedule: schedule."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import note
from curate.errors import UsageError
from curate.recipe.limits import parse_seconds
from curate.recipe.loading import load_recipe


@app.command()
def schedule(
    recipe: Annotated[Path, typer.Argument(help="The recipe (YAML); read anew for every run.")],
    cron: Annotated[str, Option("--cron", help="When: minute hour day month weekday, such as '0 3 * * *'.")],
    timezone: Annotated[
        str, Option("--timezone", help="The zone of these times, such as Europe/Berlin.")
    ] = "UTC",
    name: Annotated[
        flag.Text, Option("--name", help="What the schedule is called; by default as the run folder.")
    ] = None,
    start_server: Annotated[
        bool,
        Option("--start-server", help="Start a Prefect server here; else PREFECT_API_URL names yours."),
    ] = False,
    port: Annotated[int, Option("--port", min=1, max=65535, help="With --start-server: its port.")] = 4200,
    reports_port: Annotated[
        int | None,
        Option(
            "--reports-port",
            min=0,
            max=65535,
            help="The port of 127.0.0.1 at which browsers are shown the reports; 4201 by default, 0: none.",
        ),
    ] = None,
    overlap: Annotated[
        Literal["wait", "cancel"],
        Option(
            "--overlap", help="What a run started by hand does while another works: wait, or be cancelled."
        ),
    ] = "wait",
    patience: Annotated[
        str, Option("--patience", help="How long the server may be away before the schedule ends.")
    ] = "5min",
    out: flag.Out = None,
    set_: flag.Set = None,
) -> None:
    """Run a recipe at set times, each time into a dated folder, until interrupted."""
    overrides = [*(set_ or []), *([f"run={json.dumps(out)}"] if out else [])]
    loaded = load_recipe(recipe, overrides)

    # Only this command and the flow know Prefect.
    from curate.flows import notify, serve
    from curate.pipeline.runner import check_request
    from curate.runs.dated import require_root

    try:
        patience_s = parse_seconds(patience)
    except ValueError as wrong:
        raise UsageError(f"--patience {wrong}") from None
    if not patience_s:
        raise UsageError(f"--patience must be longer than nothing, got {patience!r}")
    check_request(loaded)
    require_root(loaded.run)
    name = name or Path(loaded.run).name
    serve.check_schedule(cron, timezone, name)
    if loaded.notify is not None:
        notify.check(loaded.notify)
    if start_server:
        note("a Prefect server is starting, which takes some seconds")
    try:
        with serve.own_server(port) if start_server else serve.known_server() as at:
            note(f"{recipe}: '{cron}' ({timezone}), each time into {loaded.run}/<time>; server: {at.url}")
            with serve.shown_reports(loaded, reports_port, note):
                note(f"now, in between: prefect deployment run 'curate/{name}'. End with Ctrl-C")
                serve.serve(
                    recipe, overrides, cron=cron, timezone=timezone, name=name,
                    at=at, overlap=overlap, patience_s=patience_s, say=note,
                )  # fmt: skip
    except UsageError:
        raise
    except Exception as error:
        for problem in notify.tell_end(loaded.notify, loaded.run, error):
            note(problem)
        raise
    note(f"'{name}' is paused until this command runs again")
