"""Methods of `Run` that answer questions and change nothing but the names of concepts."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curate.api.place import PlacedRun
from curate.runs.run import StoredRun

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    from PIL.Image import Image

    from curate.analysis.retrieval.retrieve import Retrieved

__all__ = ["Questions"]

#: Rows that an answer to SQL is fetched by.
_SQL_BATCH = 100_000


class Questions(PlacedRun):
    """What a run can be asked."""

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
