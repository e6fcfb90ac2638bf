"""`Run`: what every verb of the Python API returns or takes."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from curate.api.progress import shown
from curate.errors import CurateError, UsageError
from curate.runs.run import StoredRun
from curate.runs.run import open_run as open_stored_run

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    from PIL.Image import Image

    from curate.analysis.retrieval.retrieve import Retrieved
    from curate.evaluation.evaluate import Evaluation
    from curate.execution.context import Progress
    from curate.pipeline.export import Exported
    from curate.pipeline.retry import Retried
    from curate.review.server import Review

__all__ = ["Run", "listed", "open_run"]

#: Rows that an answer to SQL is fetched by.
_SQL_BATCH = 100_000


class Run(StoredRun):
    """A run: its tables as Polars frames, and what the command line can do with it.

    Made by `curate.filter`, `curate.run` and `curate.open_run`. Methods that change the run (`score`, `select`,
    `write`) return it, and raise before anything is lost: an error leaves scores and decisions as they were.
    """

    @property
    def path(self) -> str:
        """The run folder, or its URL."""
        return self.folder.where

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

    # Other scores, another decision

    def score(
        self,
        *families: str | Mapping[str, object],
        file: str | Path | None = None,
        on: str | None = None,
        higher_is: str | None = None,
        columns: Sequence[str] | None = None,
        name: str | None = None,
        on_missing: str | None = None,
        workers: int | None = None,
        settings: Mapping[str, object] | None = None,
        progress: "bool | Progress" = True,
    ) -> Self:
        """Add scores to the run; decisions and shards stay as they are.

        Parameters
        ----------
        *families : str or dict
            Names, such as ``"heads"``, or families with settings, such as ``{"heads": {"seeds": 3}}``.
        file : str or Path, optional
            Scores of your own: a Parquet file with a column of uids.
        on : str, optional
            The column of uids in `file`.
        higher_is : str, optional
            What a high number in `file` means: harder, noisier, easier or better.
        columns : list of str, optional
            The columns to take from `file`.
        name : str, optional
            What the folder of these scores is called.
        on_missing : str, optional
            What to do where `file` lacks a sample: error or null.
        workers : int, optional
            Worker processes.
        settings : dict, optional
            Any other setting by its dotted name, such as ``{"limits.unusable": 0.1}``.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Run
            This run; `scores` has the new columns.

        Raises
        ------
        UsageError
            Where there is no such family, or stages before the scores are not finished.
        """
        from curate.pipeline import rescore
        from curate.recipe.build import given

        own = given(
            {"on": on, "higher_is": higher_is, "columns": columns, "name": name, "on_missing": on_missing}
        )
        if own and file is None:
            raise UsageError(f"score takes {', '.join(sorted(own))} with file only")
        entries = [*families, *([] if file is None else [{"file": str(file), **own}])]
        recipe = rescore.scored_recipe(
            self.path, entries, settings={**(settings or {}), **given({"workers": workers})}
        )
        with shown(progress) as report:
            rescore.score_run(recipe, progress=report)
        return self

    def select(
        self,
        method: str | None = None,
        *,
        by: str | None = None,
        keep: float | str | None = None,
        count: int | None = None,
        where: str | Mapping[str, object] | Sequence[str | Mapping[str, object]] | None = None,
        weight: str | Mapping[str, object] | None = None,
        write: bool = False,
        workers: int | None = None,
        settings: Mapping[str, object] | None = None,
        progress: "bool | Progress" = True,
        **options: object,
    ) -> Self:
        """Decide anew which samples are kept; nothing is embedded or scored again.

        Parameters
        ----------
        method : str, optional
            How to choose: density, random, hardest, stratified, ...; the method of the run by default.
        by : str, optional
            The score column that a method such as hardest goes by.
        keep : float, optional
            The share of samples to keep, 0 to 1.
        count : int, optional
            The number of samples to keep, in place of a share.
        where : str, dict or list, optional
            Conditions that kept samples meet, such as ``"clip_score >= 0.2"``; in place of those of the run.
        weight : str or dict, optional
            How to weigh what is kept: a method, its settings, or ``"none"``.
        write : bool
            Write shards and report of the new decision too.
        workers : int, optional
            Worker processes.
        settings : dict, optional
            Any other setting by its dotted name, such as ``{"limits.unusable": 0.1}``.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).
        **options
            Settings of the method, such as ``beta=0.1``: see `select` in the recipe.

        Returns
        -------
        Run
            This run, with the new decisions.

        Raises
        ------
        RecipeError
            For a setting that is wrong.
        UsageError
            Where the run lacks the score, or earlier stages are not finished.
        """
        from curate.pipeline import rescore
        from curate.pipeline.runner import check_limits
        from curate.recipe.build import given, weight_settings

        asked: dict[str, object] = {"method": method, "by": by, "keep": keep, "count": count, **options}
        values = {f"select.{key}": value for key, value in asked.items()} | {"workers": workers}
        values |= {"filter": None if where is None else listed(where)} | weight_settings(weight)
        recipe = rescore.chosen_recipe(self.path, settings={**(settings or {}), **given(values)})
        with shown(progress) as report:
            chosen = rescore.select_run(recipe, write=write, progress=report)
        if chosen.manifest is not None:
            check_limits(recipe, chosen.manifest)
        return self

    def write(self, *, progress: "bool | Progress" = True) -> Self:
        """Write the shards and the report of the decision that the run has now.

        Parameters
        ----------
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Run
            This run.
        """
        return self.select(write=True, progress=progress)

    def evaluate(
        self,
        *,
        split: str | None = None,
        holdout: float | str | None = None,
        seed: int | None = None,
        judge: Literal["auto", "heads", "pixels", "pairs"] | None = None,
        keep: Sequence[float | str] = (),
        methods: Sequence[str] = (),
        draws: int | None = None,
        seeds: int | None = None,
        steps: int | None = None,
        near: float | None = None,
        device: str = "auto",
        workers: int | None = None,
        out: str | Path | None = None,
        progress: "bool | Progress" = True,
    ) -> "Evaluation":
        """Train one model on what the run keeps, on random draws of that size and on everything, and compare them.

        Rows are held out first, and the selection is repeated without them in a scratch copy; the run stays as it is,
        but for the folder ``evaluation``. What is not given is as the section ``evaluate`` of the run's recipe has it.

        Parameters
        ----------
        split : str, optional
            Judge by the rows of this split: of the files, or of the column ``split``, or ``COLUMN=VALUE``.
        holdout : float, optional
            Judge by a random share of the rows, 0.1 by default.
        seed : int, optional
            Of the rows held out, the random draws and the models; 0 by default.
        judge : str, optional
            What is trained: "heads" (a network on the vectors), "pixels" (a network on the images, from scratch), "pairs"
            (maps of the vectors of images and captions), or "auto", the default.
        keep : list of float
            Shares to compare at; that of the run by default.
        methods : list of str
            Methods to compare, such as ``"density"`` or ``"hardest:el2n"``; ``"run"``, the default, selects as the run does.
        draws : int, optional
            Random draws of the same size, at least 5, the default.
        seeds : int, optional
            Models per subset, at least 2; 3 by default.
        steps : int, optional
            Steps that every model is trained for; 500 by default.
        near : float, optional
            Held-out rows more similar than 1 - `near` to a row of the pool judge nothing; the epsilon of the run's dedup
            by default, else 0.002.
        device : str
            Where models are trained: "auto", "cpu", "cuda".
        workers : int, optional
            Models trained at a time; one per core by default.
        out : str or Path, optional
            The folder for the files, in place of ``evaluation`` in the run.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Evaluation
            `summary` (what `curate evaluate --json` prints), `cells` (a frame with one row per model) and `rows` (which
            rows each was trained on).

        Raises
        ------
        UsageError
            For what cannot be judged, before any model is trained.
        """
        from curate.evaluation.evaluate import evaluate_run
        from curate.evaluation.files import check_out, out_folder, write_evaluation
        from curate.evaluation.request import make_request
        from curate.pipeline.rescore import chosen_recipe

        request = make_request(
            chosen_recipe(self.path).evaluate, judge=judge, split=split, holdout=holdout, seed=seed, keep=keep, methods=methods, draws=draws, seeds=seeds,
            steps=steps, near=near, device=device, workers=workers,
        )  # fmt: skip
        check_out(self.folder, out)
        with shown(progress) as report:
            found = evaluate_run(self.path, request, progress=report)
        write_evaluation(found, out_folder(self.folder, out))
        return found

    def retry(self, *, workers: int | None = None, progress: "bool | Progress" = True) -> "Retried":
        """Try only the rows that failed, after a fix.

        Parameters
        ----------
        workers : int, optional
            Worker processes.
        progress : bool or callable
            True shows progress on stderr; a function gets (stage, done, total, unit).

        Returns
        -------
        Retried
            What was tried and what came of it: rows, recovered, still failing by reason, and the new `manifest`.
        """
        from curate.pipeline.rescore import scored_recipe
        from curate.pipeline.retry import retry_run
        from curate.pipeline.runner import check_limits
        from curate.recipe.build import given

        recipe = scored_recipe(self.path, settings=given({"workers": workers}), command="retry")
        with shown(progress) as report:
            found = retry_run(recipe, progress=report)
        if found.manifest is not None:
            check_limits(recipe, found.manifest)
        return found

    # Questions

    def summary(self, *, concepts: int = 5) -> dict[str, Any]:
        """Return counts, concepts, scores, duplicates, groups, weights and times.

        Parameters
        ----------
        concepts : int
            How many concepts a list has.

        Returns
        -------
        dict
            What `curate inspect --json` prints.
        """
        from curate.analysis.inspect import inspect_run

        return inspect_run(self, concepts=concepts)

    def explain(self, uid: str) -> dict[str, Any]:
        """Return why a sample was kept or dropped, and which budget would decide otherwise.

        Parameters
        ----------
        uid : str
            The uid (or how it begins), file name, path, URL or key, ``shard:row``, or the number of its row over
            all shards.

        Returns
        -------
        dict
            What `curate explain --json` prints.

        Raises
        ------
        UsageError
            If no sample, or more than one, is meant.
        """
        from curate.analysis.explain import explain

        return explain(self.path, str(uid))

    def plan(
        self,
        *,
        keep: Sequence[float] = (),
        epsilon: Sequence[float] = (),
        temperature: Sequence[float] = (),
        epochs: float = 1.0,
        samples_per_epoch: int | None = None,
    ) -> dict[str, Any]:
        """Return what other shares, epsilons and temperatures would give; nothing is computed anew.

        Parameters
        ----------
        keep, epsilon, temperature : list of float
            Values to look at; a range of them by default.
        epochs : float
            Epochs of the training whose cost is estimated.
        samples_per_epoch : int, optional
            Samples that an epoch of it draws; all that are kept by default.

        Returns
        -------
        dict
            What `curate plan --json` prints.
        """
        from curate.analysis.plan import plan

        return plan(
            self.path, keep=keep, epsilon=epsilon, temperature=temperature, epochs=epochs,
            samples_per_epoch=samples_per_epoch,
        )  # fmt: skip

    def search(
        self,
        text: str | None = None,
        *,
        image: "str | Path | Image | None" = None,
        vector: "str | Path | npt.ArrayLike | None" = None,
        uid: str | None = None,
        on: Literal["image", "text"] = "image",
        top: int = 20,
        concept: int | None = None,
        kept: bool | None = None,
        threshold: float = 0.5,
    ) -> "pl.DataFrame":
        """Return the samples that are relevant to a text, or nearest to an image, a vector or a sample, the best first.

        A text that fits nothing finds nothing.

        Parameters
        ----------
        text : str, optional
            What to look for, in words. One of `text`, `image`, `vector` and `uid` is given.
        image : str, Path or PIL.Image.Image, optional
            An image, or its file.
        vector : array-like, (d,), str or Path, optional
            A vector of the model, or a ``.npy`` file of it.
        uid : str, optional
            A sample of the run.
        on : str
            Compare with the vectors of images ("image") or of captions ("text").
        top : int
            How many samples.
        concept : int, optional
            Only samples of this concept.
        kept : bool, optional
            Only kept (True) or only dropped (False) samples.
        threshold : float
            The least relevance to a text, 0 to 1; 0 for the best of what there is.

        Returns
        -------
        polars.DataFrame
            The columns relevance (0 to 1; to a text only), similarity (cosine), uid, concept, keep, reason, caption, label, shard and row.
        """
        from curate.analysis.search import Query, search

        with _files(image, vector) as (picture, numbers):
            query = Query(text, picture, numbers, uid)
            return search(self.path, query, top=top, on=on, concept=concept, kept=kept, threshold=threshold)

    def retrieve(
        self,
        names: "Sequence[str] | str | Path",
        *,
        threshold: float | None = None,
        top: int | None = None,
        precision: float | None = None,
        compete: bool = True,
    ) -> "Retrieved":
        """Return a subset of the run for each name, found by text: the images that are relevant to it.

        Parameters
        ----------
        names : list of str, str or Path
            What to look for, or a file with one name a line.
        threshold : float, optional
            The least relevance, 0 to 1; 0.5 by default.
        top : int, optional
            At most so many of each name.
        precision : float, optional
            In place of `threshold`: how much of what is found should be right, as estimated without labels.
        compete : bool
            Whether an image is of one name rather than of another, or each name is judged by itself.

        Returns
        -------
        Retrieved
            `rows` (uid, concept, relevance, cosine, rank) and `concepts` (one row per name: how many, whether anything
            fits, and beside labels of that name precision and recall).

        Raises
        ------
        UsageError
            For names that are empty or given twice, and for a run on vectors of your own.
        """
        from curate.analysis.retrieval.retrieve import Asked, read_names, retrieve

        listed_names = read_names(names) if isinstance(names, (str, Path)) else tuple(names)
        return retrieve(self.path, Asked(listed_names, threshold, top, precision, compete))

    def name_concepts(self, vocabulary: "str | Path | None" = None) -> dict[int, str]:
        """Name the concepts of the run by what is said of one and not of others, and keep the names with the run.

        Parameters
        ----------
        vocabulary : str or Path, optional
            A file with one text a line to name concepts by; by default captions do, or labels.

        Returns
        -------
        dict
            The name of each concept that has one.
        """
        from curate.analysis.retrieval.concept_names import name_concepts

        with self.folder.lock():
            return name_concepts(self.folder, None if vocabulary is None else str(vocabulary))

    def sql(self, query: str) -> "pl.DataFrame":
        """Return the answer to a SELECT over the tables of the run.

        The tables are samples, embeddings, assignments, scores, filters, duplicates, decisions, concepts (as fitted),
        budgets (as decided) and centroids, as far as they are finished. No other file can be read.

        Parameters
        ----------
        query : str
            One SELECT, in the dialect of DuckDB.

        Returns
        -------
        polars.DataFrame
            The answer.

        Raises
        ------
        UsageError
            If the query is wrong, or reads anything but the run.
        """
        from contextlib import closing

        import polars as pl

        from curate.analysis.sql import opened

        with opened(self.folder, query) as database, closing(database.batches(query, _SQL_BATCH)) as batches:
            return pl.concat(list(batches), how="vertical_relaxed")

    def diff(self, other: "StoredRun | str | Path") -> dict[str, Any]:
        """Return what is different in another run: rows, decisions, concepts, scores, settings.

        Parameters
        ----------
        other : Run, str or Path
            The run that was made after this one.

        Returns
        -------
        dict
            What `curate diff --json` prints.
        """
        from curate.analysis.diff import diff_runs

        after = other.folder.where if isinstance(other, StoredRun) else other
        return diff_runs(self.path, after)

    def verify(self) -> dict[str, Any]:
        """Check every file against its recorded hash, every count, and what must hold of the tables.

        Returns
        -------
        dict
            How many files and rows were checked, and the stages that changed after the shards were written.

        Raises
        ------
        RunError
            Naming what is wrong.
        """
        from curate.analysis.verify.verify import verify_run

        return verify_run(self.path)

    def digest(self) -> str:
        """Return the SHA-256 of all decisions and scores.

        Returns
        -------
        str
            64 hexadecimal digits; the same for any order of rows and any split into shards.
        """
        from curate.analysis.verify.verify import decisions_digest

        return decisions_digest(self.path)

    # Pages and files

    def review(
        self, *, host: str = "127.0.0.1", port: int | None = None, browser: bool = True, read_only: bool = False
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


@contextlib.contextmanager
def _files(
    image: "str | Path | Image | None", vector: "str | Path | npt.ArrayLike | None"
) -> Iterator[tuple[Path | None, Path | None]]:
    """Give an image and a vector as files, which a query takes."""
    with tempfile.TemporaryDirectory() as folder:
        if image is not None and not isinstance(image, str | Path):
            path = Path(folder) / "image.png"
            image.save(path)
            image = path
        if vector is not None and not isinstance(vector, str | Path):
            import numpy as np

            array = np.asarray(vector)
            path = Path(folder) / "vector.npy"
            np.save(path, array if array.dtype.kind == "f" else array.astype(np.float64))
            vector = path
        yield (None if image is None else Path(image)), (None if vector is None else Path(vector))


def listed(value: Any) -> list[Any]:  # noqa: ANN401  (texts, settings, or lists of them)
    """Return one thing as a list of it, a list as it is.

    >>> listed("a"), listed({"by": "el2n"}), listed(("a", "b"))
    (['a'], [{'by': 'el2n'}], ['a', 'b'])
    """
    return [value] if isinstance(value, str | Path | Mapping) else list(cast(Sequence[Any], value))


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
