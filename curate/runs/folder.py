"""The run folder: where everything is, what is done, who is writing."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.errors import RunError
from curate.io import checksums, lock, storage
from curate.io.records import MARKER
from curate.io.remote import cache
from curate.io.remote.working_copy import copy_path
from curate.io.secrets import HIDDEN
from curate.runs.layout import REFITTED, REFITTED_FOLDER, STAGE_FOLDERS

if TYPE_CHECKING:
    from curate.recipe import Recipe

__all__ = [
    "BUDGETS", "COVERED", "FORMAT_VERSION", "JOURNAL", "LATEST", "MARKER", "RunFolder", "folder_of", "latest",
]  # fmt: skip

FORMAT_VERSION = 1
#: The table of concepts below the decisions: whoever reads a whole folder takes nothing that begins with `_`.
BUDGETS = "_concepts/concepts.parquet"
#: Likewise, where rows cover objects: which were taken one after the other, and what each covers.
COVERED = "_objects/covered.parquet"
#: What people decided about rows (see `curate.overrides`): the one file of a run that is appended to.
JOURNAL = "overrides.jsonl"
#: In a folder of dated runs: the file that names the newest one that succeeded (see `curate.runs.dated`).
LATEST = "latest"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run folder, its marks and its lock."""

    path: Path

    @property
    def where(self) -> str:
        """What a person calls the run: its folder, or its URL."""
        store = cache.store_of(self.path)
        return str(self.path) if store is None else store.url

    @cached_property
    def samples(self) -> Path:
        """One row per row read, with its outcome."""
        return self.path / "0_samples"

    @cached_property
    def embeddings(self) -> Path:
        """Unit vectors of the usable samples, one Arrow file per shard."""
        return self.stage("embed")

    @cached_property
    def concepts(self) -> Path:
        """Centroids, and the concept of every sample."""
        return self.stage("cluster")

    @cached_property
    def assignments(self) -> Path:
        """Concept and distance of every sample, one table per shard."""
        return self.concepts / "assignments"

    @cached_property
    def refitted(self) -> Path:
        """Concepts fitted on what conditions and dedup leave, where the recipe asks for it (`dedup.blocks`)."""
        return self.stage(REFITTED)

    @property
    def final_concepts(self) -> Path:
        """The concepts of the decisions: those fitted on what is left, or the only ones."""
        return self.refitted if self.marker(self.refitted) is not None else self.concepts

    @property
    def final_assignments(self) -> Path:
        """Which of the concepts of the decisions every sample is in."""
        return self.final_concepts / "assignments"

    @cached_property
    def duplicates(self) -> Path:
        """What comparing within concepts found."""
        return self.stage("dedup")

    @cached_property
    def decisions(self) -> Path:
        """Keep or drop, and why: one row per row read."""
        return self.stage("select")

    @property
    def budgets(self) -> Path:
        """What was decided of each concept: in a folder that readers of `5_decisions` pass over.

        Runs made before have it among the decisions.
        """
        before, now = self.decisions / "concepts.parquet", self.decisions / BUDGETS
        return before if before.exists() else now

    @cached_property
    def filtered(self) -> Path:
        """The output shards."""
        return self.stage("write")

    @cached_property
    def report(self) -> Path:
        """The page, and the summary as JSON."""
        return self.stage("report")

    @cached_property
    def evaluation(self) -> Path:
        """What `curate evaluate` found of the decisions; no stage makes it."""
        return self.path / "evaluation"

    @cached_property
    def work(self) -> Path:
        """Scratch: what stages pass to each other and nobody reads afterwards."""
        return self.path / ".work"

    @cached_property
    def near_sample(self) -> Path:
        """How many near-duplicates a sample has, where they are not looked for."""
        return self.work / "near_sample.json"

    @cached_property
    def concept_names(self) -> Path:
        """What the concepts are called, and from what; no stage depends on it."""
        return self.path / "concept_names.json"

    @cached_property
    def logs(self) -> Path:
        """What was said while working: one file of JSON lines per invocation."""
        return self.path / "logs"

    @cached_property
    def manifest(self) -> Path:
        """Counts, versions, fingerprints and times; written last."""
        return self.path / "manifest.json"

    @cached_property
    def recipe(self) -> Path:
        """The recipe with every setting filled in."""
        return self.path / "recipe.yaml"

    def recipe_text(self) -> str:
        """Return what `recipe.yaml` says."""
        return storage.ensure_local(self.recipe).read_text(encoding="utf-8")

    def scores(self, family: str) -> Path:
        """Return the folder of one score family."""
        return self.stage("score") / family

    def stage(self, name: str) -> Path:
        """Return the folder that a stage marks; `score/<folder>` is one family."""
        if name in STAGE_FOLDERS:
            return self.path / STAGE_FOLDERS[name]
        if name == REFITTED:
            return self.path / REFITTED_FOLDER
        return self.scores(name.removeprefix("score/"))

    def stages(self, names: Iterable[str]) -> dict[str, Path]:
        """Return the folders that stages mark, by the names of the stages."""
        return {name: self.stage(name) for name in names}

    def part(self, folder: Path, part: str) -> Path:
        """Return the file of one shard's part in a table's folder."""
        return folder / f"part-{part}{'.arrow' if folder == self.embeddings else '.parquet'}"

    def class_names(self) -> dict[str, str]:
        """Return what the labels of the source are called, where it says so (ClassLabel of Hugging Face)."""
        facts = (self.marker(self.work / "keys") or {}).get("facts", {})
        return dict(facts.get("classes", {}))

    def marker(self, folder: Path) -> dict[str, Any] | None:
        """Return what a finished stage wrote about itself, or None if it is not finished."""
        path = folder / MARKER
        try:
            now = path.stat()
        except (
            FileNotFoundError,
            NotADirectoryError,
        ):  # anything else says nothing of whether it is finished
            return None
        return _marker_in(path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)

    def mark(self, folder: Path, fingerprint: str, facts: Mapping[str, object]) -> None:
        """Mark a stage's folder as done: its fingerprint, its files with sizes, times and hashes, its facts.

        From here on the mark says what the files are, and their sidecars are gone. Raises RunError for a file that
        changed after it was written.
        """
        files = checksums.records_below(folder)
        storage.write_record(
            folder / MARKER, {"fingerprint": fingerprint, "facts": dict(facts), "files": files}
        )
        checksums.drop_sidecars(folder)

    def is_done(self, folder: Path, fingerprint: str) -> bool:
        """Whether a stage is finished with this fingerprint and all its files are what its mark says."""
        marker = self.marker(folder)
        return marker is not None and marker.get("fingerprint") == fingerprint and self.remove_damaged(folder)

    def remove_damaged(self, folder: Path) -> bool:
        """Remove the files of a stage that are not what its mark (or their sidecar) says; whether none is missing.

        A file with the recorded size and time is trusted. Another one is read: if its bytes are those recorded
        (it was copied, say), its time is recorded anew.
        """
        marker = self.marker(folder)
        if marker is None:
            whole = [checksums.verify_or_remove(file) for file in folder.rglob("*") if file.is_file()]
            return all(whole)
        files: Mapping[str, checksums.Record] = marker["files"]
        found = checksums.verify_below(folder, files)
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
        """Take a stage's mark away before its files change; what it knew of them goes to their sidecars."""
        for name, record in ((self.marker(folder) or {}).get("files") or {}).items():
            if (folder / name).exists():
                checksums.write(folder / name, record)
        storage.remove(folder / MARKER)

    def publish(self, new: Path, folder: Path) -> None:
        """Let a folder that is whole and marked take the place of a stage's folder, all at once."""
        storage.replace_folder(new, folder)

    def keep_only(self, folder: Path, parts: Sequence[str]) -> None:
        """Remove parts of shards that are no longer in the source."""
        wanted = {self.part(folder, part).name for part in parts}
        for file in folder.glob("part-*"):
            if file.name not in wanted:
                storage.remove(file)

    def follow(self) -> None:
        """Let the working copy of a run at a URL be as the run is now."""
        store = cache.store_of(self.path)
        if store is not None:
            store.refresh()

    @contextlib.contextmanager
    def lock(self, *, there: bool = True) -> Iterator[None]:
        """Hold the run folder for writing; raises RunError naming who else holds it.

        there : hold the URL too, where the run is at one; the working copy follows it then.
        """
        store = cache.store_of(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock.held(self.path))
            if store is not None:
                from curate.io.remote.remote_lock import held

                if there:
                    stack.enter_context(held(store))
                store.refresh(tidy=True)
            yield


@functools.lru_cache(64)
def _marker_in(path: Path, *version: int) -> dict[str, Any] | None:
    """Return what a marker says; read once for each version of its file."""
    found = storage.read_json(path)
    return found if isinstance(found, dict) else None


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
    root = copy_path(recipe.run)
    plain = given.model_dump(mode="json")["storage_options"].items()
    written = {name: value for name, value in plain if HIDDEN not in str(value)}
    cache.begin(
        root, recipe.run, storage_options=given.storage_options, written_options=written, cache=given.cache,
        shared=recipe.engine == "ray",
    )  # fmt: skip
    return RunFolder(root)
