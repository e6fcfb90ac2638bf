"""Opening a run to read its tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from curate.errors import RunError, UsageError
from curate.io import storage
from curate.io.remote import cache
from curate.io.remote.working_copy import copy_path
from curate.runs.folder import RunFolder, latest
from curate.settings import local_folder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["StoredRun", "open_run"]


@dataclass(frozen=True)
class StoredRun:
    """The tables of a run folder, to read; the files behind them are plain Parquet.

    With ``lazy=True`` a method returns a LazyFrame, which reads only the columns and rows that are asked for. The
    files of a run at a URL are fetched into its working copy on this machine first. Every method raises RunError
    where its stage is not finished.
    """

    folder: RunFolder

    @overload
    def samples(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def samples(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def samples(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return one row per row read.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Identity, size, caption, label and outcome.
        """
        return _read(self._parts(self.folder.samples), lazy)

    @overload
    def decisions(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def decisions(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def decisions(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return one row per row read.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Keep, weight, reason, concept and rank.
        """
        return _read(self._parts(self.folder.decisions), lazy)

    @overload
    def kept(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def kept(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def kept(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return the decisions of the rows that are kept.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Uid, shard and row, weight, concept and rank.
        """
        return _read(self._parts(self.folder.decisions).filter("keep"), lazy)

    @overload
    def duplicates(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def duplicates(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def duplicates(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return one row per compared sample.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Uid, the most similar earlier sample and the similarity, and the one that it duplicates.
        """
        return _read(self._parts(self.folder.duplicates), lazy)

    @overload
    def concepts(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def concepts(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def concepts(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return one row per concept.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Concept, size, complexity, budget and the number kept.
        """
        import polars as pl

        self._require(self.folder.decisions)
        path = storage.ensure_local(self.folder.budgets)
        return _read(pl.scan_parquet(path, glob=False), lazy)

    @overload
    def scores(self, *, lazy: Literal[False] = ...) -> "pl.DataFrame": ...
    @overload
    def scores(self, *, lazy: Literal[True]) -> "pl.LazyFrame": ...
    def scores(self, *, lazy: bool = False) -> "pl.DataFrame | pl.LazyFrame":
        """Return one row per embedded sample.

        Parameters
        ----------
        lazy : bool
            Return a LazyFrame, which reads only the columns and rows that are asked for.

        Returns
        -------
        polars.DataFrame or polars.LazyFrame
            Uid, concept, distance to its centroid, and every score.
        """
        from curate.io.yaml import read_yaml
        from curate.runs.layout import score_folders

        frame = self._parts(self.folder.final_assignments, self.folder.final_concepts)
        for folder in score_folders(read_yaml(self.folder.recipe_text())):
            scores = self._parts(self.folder.scores(folder))
            frame = frame.join(scores, on="uid", how="left", validate="1:1", maintain_order="left")
        return _read(frame, lazy)

    def manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Returns
        -------
        dict
            Counts, versions, fingerprints and times.

        Raises
        ------
        RunError
            If the run is not finished.
        """
        found = storage.read_json(self.folder.manifest)
        if not isinstance(found, dict):
            raise RunError(f"{self.folder.path}: manifest.json is not there yet; finish the run first")
        return found

    def _parts(self, folder: Path, stage: Path | None = None) -> "pl.LazyFrame":
        import polars as pl

        self._require(stage or folder)
        return pl.scan_parquet(storage.ensure_all_local(folder, "part-*.parquet"), glob=False)

    def _require(self, folder: Path) -> None:
        if self.folder.marker(folder) is None:
            raise RunError(f"{self.folder.path}: {folder.name} is not there yet; finish the run first")


def _read(frame: "pl.LazyFrame", lazy: bool) -> "pl.DataFrame | pl.LazyFrame":
    return frame if lazy else frame.collect()


def open_run(path: str | Path) -> StoredRun:
    """Open a run folder (or URL) for reading; of a folder of dated runs the latest.

    Raises UsageError if there is none.
    """
    from curate.io.filesystem import is_remote

    folder = _at_url(str(path)) if is_remote(str(path)) else RunFolder(Path(local_folder(str(path))))
    if not folder.recipe.exists() and not is_remote(str(path)):
        folder = RunFolder(latest(folder.path) or folder.path)
    if not folder.recipe.exists():
        raise UsageError(f"{path} is not a run folder: it has no recipe.yaml")
    return StoredRun(folder)


def _at_url(url: str) -> RunFolder:
    """Return the working copy of a run at a URL, as it is now; its options are those it was made with here."""
    root = copy_path(url)
    if cache.copy_of(root) is None:
        cache.begin(
            root, url, storage_options={}, written_options={}, cache=cache.DEFAULT_BYTES, shared=False
        )
    folder = RunFolder(root)
    folder.follow()
    return folder
