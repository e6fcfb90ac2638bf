"""`Run`: what every verb of the Python API returns or takes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from curate.api.changes import Changes
from curate.api.progress import shown
from curate.api.questions import Questions
from curate.errors import CurateError, UsageError
from curate.runs.run import open_run as open_stored_run

if TYPE_CHECKING:
    from curate.execution.context import Progress
    from curate.pipeline.export import Exported
    from curate.review.server import Review

__all__ = ["Run", "open_run"]


class Run(Changes, Questions):
    """A run: its tables as Polars frames, and what the command line can do with it.

    Made by `curate.filter`, `curate.run` and `curate.open_run`. Methods that change the run (`score`, `select`,
    `write`) return it, and raise before anything is lost: an error leaves scores and decisions as they were.
    """

    def __repr__(self) -> str:
        """Return the run in one line: rows, kept, dropped and unusable."""
        try:
            return f"Run({self.path!r}: {self._counts()})"
        except (CurateError, OSError) as error:
            return f"Run({self.path!r}: cannot be read: {error})"

    def _counts(self) -> str:
        from curate.analysis.summary.counts import group_reasons
        from curate.analysis.summary.scan import scan_parts

        if self.folder.marker(self.folder.decisions) is None:
            return "nothing is decided yet"
        counts = group_reasons(scan_parts(self.folder, whole=False, tables=("decisions",)).reasons)
        dropped, unusable = (sum(counts[name].values()) for name in ("dropped", "unusable"))
        return f"{counts['rows']:,} rows, {counts['kept']:,} kept, {dropped:,} dropped, {unusable:,} unusable"

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it."""
        from curate.analysis.notebook import html

        return html(self)

    def report(self, concept: int | None = None, *, progress: "bool | Progress" = True) -> Path:
        """Write the report of the run anew, or the page of one concept.

        Parameters
        ----------
        concept : int, optional
            The concept to write a page of.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Path
            The HTML file.
        """
        from curate.pipeline.page import write_page

        with shown(progress) as show:
            return write_page(self.path, concept, progress=show)

    def review(
        self,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        browser: bool = True,
        read_only: bool = False,
    ) -> "Review":
        """Show the run in the browser, to look at its samples and decide about them by eye.

        It is served in a thread of this process, until `close` is called or the process ends.

        Parameters
        ----------
        host : str
            The address to listen at; only this machine reaches the default.
        port : int, optional
            The port; a free one by default.
        browser : bool
            Open the page.
        read_only : bool
            Show everything, decide nothing.

        Returns
        -------
        Review
            `url` is the address of the page, with its token; `close` ends it.

        Raises
        ------
        UsageError
            Where the run is not finished, or the port is taken.
        """
        from curate.review.server import open_browser, review

        served = review(self.path, host=host, port=port, read_only=read_only)
        served.start()
        if browser:
            open_browser(served.url)
        return served

    def export(
        self,
        format: str,
        out: str | Path,
        *,
        columns: Sequence[str] | None = None,
        rows: 'Literal["kept", "dropped", "all"] | None' = None,
        max_shard_size: str | int | None = None,
        weight_groups: int | None = None,
        workers: int | None = None,
        progress: "bool | Progress" = True,
    ) -> "Exported":
        """Write what the run decided in another format; nothing is computed anew.

        Parameters
        ----------
        format : str
            Folders: parquet, webdataset, dropped (rows not kept), links or copies of images. Files: npy (DataComp),
            txt, uids, names, csv, open_clip, card.
        out : str or Path
            The folder or file to write, here or at a URL; only an earlier export is replaced.
        columns : list of str, optional
            Columns to add to the shards: uid, weight; to a csv also those of the source.
        rows : {"kept", "dropped", "all"}, optional
            Which rows a list (txt, names, csv) names: the kept ones by default, of a csv all.
        max_shard_size : str or int, optional
            About how large a shard may be, such as ``"500MB"``.
        weight_groups : int, optional
            For tars, the number of groups by weight.
        workers : int, optional
            Worker processes.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Exported
            Where it is (`target`), and its `rows` and `files`.
        """
        from curate.pipeline.export import export_recipe, export_run, export_settings

        settings = export_settings(
            format,
            columns=columns,
            max_shard_size=max_shard_size,
            weight_groups=weight_groups,
            workers=workers,
        )
        with shown(progress) as report:
            return export_run(export_recipe(self.path, settings), format, out, rows=rows, progress=report)


def open_run(path: str | Path) -> Run:
    """Open a run to read it and to work on it.

    Parameters
    ----------
    path : str or Path
        A run folder or its URL; of a folder of dated runs the latest is opened.

    Returns
    -------
    Run
        The run, finished or not.

    Raises
    ------
    UsageError
        If there is no run.

    Examples
    --------
    >>> open_run("no/such/folder")
    Traceback (most recent call last):
    ...
    curate.errors.UsageError: no/such/folder is not a run folder: it has no recipe.yaml
    """
    if not isinstance(path, str | Path):
        raise UsageError(f"curate.open_run takes a run folder or its URL, got {type(path).__name__}")
    return Run(open_stored_run(path).folder)
