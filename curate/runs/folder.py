"""The run folder: where everything is, what is done, who is writing; and opening a run to read it."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import RunError, UsageError
from curate.io import checksums, lock, storage
from curate.io.checksums import MARKER
from curate.io.remote import cache
from curate.io.secrets import HIDDEN

if TYPE_CHECKING:
    import polars as pl

    from curate.recipe import Recipe

__all__ = ["FORMAT_VERSION", "LATEST", "MARKER", "Run", "RunFolder", "folder_of", "latest", "open_run"]

FORMAT_VERSION = 1
#: In a folder of dated runs: the file that names the newest one that succeeded (see `curate.runs.dated`).
LATEST = "latest"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run folder, its marks and its lock."""

    path: Path

    @property
    def where(self) -> str:
        """What a person calls the run: its folder, or its URL."""
        home = cache.home_of(self.path)
        return str(self.path) if home is None else home.url

    @property
    def samples(self) -> Path:
        """One row per row read, with its outcome."""
        return self.path / "0_samples"

    @property
    def embeddings(self) -> Path:
        """Unit vectors of the usable samples, one Arrow file per shard."""
        return self.path / "1_embeddings"

    @property
    def concepts(self) -> Path:
        """Centroids, and the concept of every sample."""
        return self.path / "2_concepts"

    @property
    def assignments(self) -> Path:
        """Concept and distance of every sample, one table per shard."""
        return self.concepts / "assignments"

    @property
    def duplicates(self) -> Path:
        """What comparing within concepts found."""
        return self.path / "4_duplicates"

    @property
    def decisions(self) -> Path:
        """Keep or drop, and why: one row per row read."""
        return self.path / "5_decisions"

    @property
    def filtered(self) -> Path:
        """The output shards."""
        return self.path / "6_filtered"

    @property
    def report(self) -> Path:
        """The page, and the summary as JSON."""
        return self.path / "7_report"

    @property
    def work(self) -> Path:
        """Scratch: what stages pass to each other and nobody reads afterwards."""
        return self.path / ".work"

    @property
    def logs(self) -> Path:
        """What was said while working: one file of JSON lines per invocation."""
        return self.path / "logs"

    @property
    def manifest(self) -> Path:
        """Counts, versions, fingerprints and times; written last."""
        return self.path / "manifest.json"

    @property
    def recipe(self) -> Path:
        """The recipe with every setting filled in."""
        return self.path / "recipe.yaml"

    def recipe_text(self) -> str:
        """Return what `recipe.yaml` says."""
        return storage.ensure_local(self.recipe).read_text(encoding="utf-8")

    def scores(self, family: str) -> Path:
        """Return the folder of one score family."""
        return self.path / "3_scores" / family

    def stage(self, name: str) -> Path:
        """Return the folder that a stage marks; `score/<folder>` is one family."""
        folders = {
            "read": self.work / "keys", "embed": self.embeddings, "cluster": self.concepts,
            "filter": self.scores("filter"), "dedup": self.duplicates, "select": self.decisions,
            "write": self.filtered, "report": self.report,
        }  # fmt: skip
        return folders[name] if name in folders else self.scores(name.removeprefix("score/"))

    def part(self, folder: Path, part: str) -> Path:
        """Return the file of one shard's part in a table's folder."""
        return folder / f"part-{part}{'.arrow' if folder == self.embeddings else '.parquet'}"

    def marker(self, folder: Path) -> dict[str, Any] | None:
        """Return what a finished stage wrote about itself, or None if it is not finished."""
        found = storage.read_json(folder / MARKER)
        return found if isinstance(found, dict) else None

    def mark(self, folder: Path, fingerprint: str, facts: Mapping[str, object]) -> None:
        """Mark a stage's folder as done: its fingerprint, its files with sizes, times and hashes, its facts.

        From here on the mark says what the files are, and their seals are gone. Raises RunError for a file that
        changed after it was written.
        """
        files = {
            str(file.relative_to(folder)): _record(file)
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not file.name.startswith((".", "_"))
        }
        storage.write_record(
            folder / MARKER, {"fingerprint": fingerprint, "facts": dict(facts), "files": files}
        )
        checksums.drop_sidecars(folder)

    def is_done(self, folder: Path, fingerprint: str) -> bool:
        """Whether a stage is finished with this fingerprint and all its files are what its mark says."""
        marker = self.marker(folder)
        return marker is not None and marker.get("fingerprint") == fingerprint and self.remove_damaged(folder)

    def remove_damaged(self, folder: Path) -> bool:
        """Remove the files of a stage that are not what its mark (or their seal) says; whether none is missing.

        A file with the recorded size and time is trusted. Another one is read: if its bytes are those recorded
        (it was copied, say), its time is recorded anew.
        """
        marker = self.marker(folder)
        if marker is None:
            whole = [checksums.verify_or_remove(file) for file in folder.rglob("*") if file.is_file()]
            return all(whole)
        files: Mapping[str, checksums.Record] = marker["files"]
        found = {name: checksums.verify(folder / name, record) for name, record in files.items()}
        for name in files:
            if found[name] is None:
                checksums.remove_damaged(folder / name)
        if None in found.values():
            return False
        if found != files:
            storage.write_record(folder / MARKER, {**marker, "files": found})
        checksums.drop_sidecars(folder)  # those of an interruption between the mark and their removal
        return True

    def fingerprint(self, folder: Path) -> str:
        """Return the fingerprint of a finished stage; raises RunError if it is not finished."""
        marker = self.marker(folder)
        if marker is None:
            raise RunError(f"{self.path}: {folder.name} is not there yet; run the earlier stages first")
        return str(marker["fingerprint"])

    def unmark(self, folder: Path) -> None:
        """Take a stage's mark away before its files change; what it knew of them goes to their seals."""
        for name, record in ((self.marker(folder) or {}).get("files") or {}).items():
            if (folder / name).exists():
                checksums.write(folder / name, record)
        storage.remove(folder / MARKER)

    def publish(self, new: Path, folder: Path) -> None:
        """Let a folder that is whole and marked take the place of a stage's folder, all at once."""
        storage.take_place(new, folder)

    def keep_only(self, folder: Path, parts: Sequence[str]) -> None:
        """Remove parts of shards that are no longer in the source."""
        wanted = {self.part(folder, part).name for part in parts}
        for file in folder.glob("part-*"):
            if file.name not in wanted:
                storage.remove(file)

    def follow(self) -> None:
        """Let the working copy of a run at a URL be as the run is now."""
        home = cache.home_of(self.path)
        if home is not None:
            home.refresh()

    @contextlib.contextmanager
    def lock(self, *, there: bool = True) -> Iterator[None]:
        """Hold the run folder for writing; raises RunError naming who else holds it.

        there : hold the URL too, where the run is at one; the working copy follows it then.
        """
        home = cache.home_of(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock.held(self.path))
            if home is not None:
                from curate.io.remote.remote_lock import held

                if there:
                    stack.enter_context(held(home))
                home.refresh(tidy=True)
            yield


def _record(file: Path) -> checksums.Record:
    """Return the record of a file, from its seal where it has one; raises RunError if it is something else."""
    sealed = checksums.read(file)
    if sealed is None or "hash" not in sealed:
        return checksums.record_of(file)
    now = checksums.verify(file, sealed)
    if now is None:
        raise RunError(f"{file}: its bytes changed after it was written; run again to make it anew")
    return now


@dataclass(frozen=True)
class Run:
    """A run to read. Every method returns a Polars frame; the files behind it are plain Parquet."""

    folder: RunFolder

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it."""
        # By name: a notebook's view is built on the stages, which build on this file.
        return str(importlib.import_module("curate.analysis.notebook").html(self))

    def samples(self) -> "pl.DataFrame":
        """Return one row per row read: identity, size, caption, label and outcome."""
        return self._parts(self.folder.samples)

    def decisions(self) -> "pl.DataFrame":
        """Return one row per row read: keep, weight, reason, concept and rank."""
        return self._parts(self.folder.decisions)

    def concepts(self) -> "pl.DataFrame":
        """Return one row per concept: size, complexity, budget and the number kept."""
        import polars as pl

        self._require(self.folder.decisions)
        return pl.read_parquet(storage.ensure_local(self.folder.decisions / "concepts.parquet"))

    def scores(self) -> "pl.DataFrame":
        """Return one row per embedded sample: its concept, its distance and every score."""
        from curate.recipe.loading import read_yaml
        from curate.recipe.scores import stored_folders

        frame = self._parts(self.folder.assignments, self.folder.concepts)
        for folder in stored_folders(read_yaml(self.folder.recipe_text())):
            scores = self._parts(self.folder.scores(folder))
            frame = frame.join(scores, on="uid", how="left", validate="1:1", maintain_order="left")
        return frame

    def manifest(self) -> dict[str, Any]:
        """Return the manifest: counts, versions, fingerprints and times."""
        found = storage.read_json(self.folder.manifest)
        if not isinstance(found, dict):
            raise RunError(f"{self.folder.path}: manifest.json is not there yet; finish the run first")
        return found

    def _parts(self, folder: Path, stage: Path | None = None) -> "pl.DataFrame":
        import polars as pl

        self._require(stage or folder)
        return pl.read_parquet(storage.ensure_all_local(folder, "part-*.parquet"))

    def _require(self, folder: Path) -> None:
        if self.folder.marker(folder) is None:
            raise RunError(f"{self.folder.path}: {folder.name} is not there yet; finish the run first")


def latest(root: str | Path) -> Path | None:
    """Return the run that `latest` names in a folder of dated runs; None if there is no such file.

    Raises RunError if that run is not there.
    """
    try:
        name = (Path(root) / LATEST).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    run = Path(root) / name
    if not name or Path(name).name != name or not run.is_dir():
        raise RunError(
            f"{Path(root) / LATEST} must name a run folder beside it, got {name!r}; write a name into it"
        )
    return run


def folder_of(recipe: "Recipe") -> RunFolder:
    """Return the folder of the run that a recipe describes; for one at a URL, its working copy on this machine."""
    from curate.io.filesystem import is_remote

    if not is_remote(recipe.run):
        return RunFolder(Path(recipe.run))
    given = recipe.remote
    root = cache.working_copy(recipe.run)
    plain = given.model_dump(mode="json")["storage_options"].items()
    written = {name: value for name, value in plain if HIDDEN not in str(value)}
    cache.begin(
        root, recipe.run, storage_options=given.storage_options, written_options=written, cache=given.cache,
        shared=recipe.engine == "ray",
    )  # fmt: skip
    return RunFolder(root)


def _at_url(url: str) -> RunFolder:
    """Return the working copy of a run at a URL, as it is now; its options are those it was made with here."""
    from curate.recipe import Remote

    root = cache.working_copy(url)
    if cache.copy_of(root) is None:
        cache.begin(root, url, storage_options={}, written_options={}, cache=Remote().cache, shared=False)
    folder = RunFolder(root)
    folder.follow()
    return folder


def open_run(path: str | Path) -> Run:
    """Open a run folder (or URL) for reading; of a folder of dated runs the latest.

    Raises UsageError if there is none.
    """
    from curate.io.filesystem import is_remote

    folder = _at_url(str(path)) if is_remote(str(path)) else RunFolder(Path(path))
    if not folder.recipe.exists() and not is_remote(str(path)):
        folder = RunFolder(latest(folder.path) or folder.path)
    if not folder.recipe.exists():
        raise UsageError(f"{path} is not a run folder: it has no recipe.yaml")
    return Run(folder)
