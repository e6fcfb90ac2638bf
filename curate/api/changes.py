"""Methods of `Run` that change a run, or try what it keeps: other scores, another decision, an evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from curate.api.place import PlacedRun
from curate.api.progress import shown
from curate.errors import UsageError

if TYPE_CHECKING:
    from curate.api.overrides import RunOverrides
    from curate.evaluation.evaluate import Evaluation
    from curate.execution.context import Progress
    from curate.pipeline.retry import Retried

__all__ = ["Changes", "listed"]


class Changes(PlacedRun):
    """What changes a run; an error leaves scores and decisions as they were."""

    @property
    def overrides(self) -> "RunOverrides":
        """What people decided about the rows: a `RunOverrides`, to be looked at and added to."""
        from curate.api.overrides import RunOverrides

        return RunOverrides(self)

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


def listed(value: Any) -> list[Any]:  # noqa: ANN401  (texts, settings, or lists of them)
    """Return one thing as a list of it, a list as it is.

    >>> listed("a"), listed({"by": "el2n"}), listed(("a", "b"))
    (['a'], [{'by': 'el2n'}], ['a', 'b'])
    """
    return [value] if isinstance(value, str | Path | Mapping) else list(cast(Sequence[Any], value))
