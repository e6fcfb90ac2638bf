"""Where a browser finds the report of a run, or what to type where it finds none. Knows no Prefect.

Browsers open no file from a web page, so the path of the report is no link for a page of Prefect.
"""

import os
import shlex
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from curate.io.filesystem import resolve_options
from curate.recipe import Recipe
from curate.runs.folder import RunFolder

__all__ = ["PAGE", "SHOWN_AT", "SHOWN_OF", "ReportLink", "report_link"]

#: The report, below a run folder.
PAGE = "7_report/report.html"
#: Environment of the processes of runs: the address below which a schedule shows the reports, and of which folder.
SHOWN_AT, SHOWN_OF = "CURATE_REPORTS_URL", "CURATE_REPORTS_RUNS"
#: Variables that name another object store than Amazon's, of which there is no console.
OTHER_STORES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL")


@dataclass(frozen=True)
class ReportLink:
    """How to look at a report. url : what a browser opens, None where nothing shows it. said : a sentence about that.

    command : what to type on `machine` instead.
    """

    url: str | None
    said: str
    command: str
    machine: str


def report_link(
    run: RunFolder, recipe: Recipe, root: str, environment: Mapping[str, str] = os.environ
) -> ReportLink:
    """Return how to look at the report of a finished run.

    run : its folder. recipe : its recipe. root : the run folder of the recipe, which holds `run` if that is a dated one.
    """
    here = socket.gethostname()
    url, said = _shown(run, recipe, root, environment, here)
    is_here = run.where == str(run.path)
    place, machine = (str(run.path.resolve()), here) if is_here else (run.where, "a machine that may read it")
    return ReportLink(url, said, f"curate report {shlex.quote(place)} --open", machine)


def _shown(
    run: RunFolder, recipe: Recipe, root: str, environment: Mapping[str, str], here: str
) -> tuple[str | None, str]:
    """Return the address of a report and a sentence about it, by the first that there is: a web server, the schedule, a console."""
    if (base := recipe.report.url) is not None:
        inside = f"{run.path.name}/" if run.path.resolve() == (Path(root) / run.path.name).resolve() else ""
        return f"{base.rstrip('/')}/{inside}{PAGE}", "Shown by the web server that `report.url` names."
    if (at := environment.get(SHOWN_AT)) and run.path.resolve().parent == Path(environment[SHOWN_OF]):
        port = urlsplit(at).port
        said = (
            f"Shown on {here} as long as `curate schedule` runs; from another machine, first: "
            f"`ssh -L {port}:127.0.0.1:{port} {here}`."
        )
        return f"{at}/{run.path.name}/report.html", said
    return _console(run.where, recipe.remote.storage_options, environment)


def _console(url: str, options: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[str | None, str]:
    """Return where the console of a bucket shows the report of a run at a URL; None where that has none.

    Never a signed address: it would be a secret in the server's history, and end after some days.
    """
    scheme, bucket, path = (found := urlsplit(url)).scheme, found.netloc, found.path
    key = quote(f"{path.strip('/')}/{PAGE}".lstrip("/"))
    if scheme in ("gs", "gcs"):
        said = "Shown by Google Cloud Storage to those who are logged in and may read the bucket."
        return f"https://storage.cloud.google.com/{bucket}/{key}", said
    if scheme in ("s3", "s3a") and not _elsewhere(resolve_options(options), environment):
        said = "In the console of Amazon S3, for those who are logged in and may read the bucket: there, press Open."
        return f"https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}", said
    return None, "Nothing shows it to a browser."


def _elsewhere(options: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Return whether s3:// means another store than Amazon's."""
    named = (options.get("endpoint_url"), (options.get("client_kwargs") or {}).get("endpoint_url"))
    return any(named) or any(environment.get(name) for name in OTHER_STORES)
