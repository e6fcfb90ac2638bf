"""The command `review`: look at the rows of a run in the browser, and decide about them by eye."""

from typing import Annotated

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.options import Option
from curate.cli.output import note, write


@app.command()
def review(
    run: flag.RunPlace,
    port: Annotated[
        int | None, Option("--port", min=1, max=65535, help="The port to listen at; a free one by default.")
    ] = None,
    host: Annotated[
        str,
        Option("--host", help="The address to listen at: others on the network need the token in the URL."),
    ] = "127.0.0.1",
    no_browser: Annotated[bool, Option("--no-browser", help="Print the URL and open no browser.")] = False,
    read_only: Annotated[bool, Option("--read-only", help="Show everything, decide nothing.")] = False,
) -> None:
    """Look at a finished run in the browser, and decide by eye: keep, drop, right or wrong label. Ctrl-C ends it."""
    from curate.review.server import is_loopback, open_browser
    from curate.review.server import review as reviewed

    served = reviewed(run, host=host, port=port, read_only=read_only)
    write(f"{served.url}\n")
    if not is_loopback(host):
        note("warning: whoever has this URL sees the pictures of the run, and decides; it is not encrypted")
    note("review: Ctrl-C ends it" + ("" if not read_only else "; read-only"))
    if not no_browser:
        open_browser(served.url)
    served.wait()
