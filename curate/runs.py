"""The run folder: where everything is, what is done, who is writing; and opening a run to read it."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate import storage
from curate.errors import RunError, UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["FORMAT_VERSION", "Run", "RunFolder", "open_run"]

FORMAT_VERSION = 1
MARKER = "_done.json"
HEARTBEAT_S = 5.0
#: A lock of another machine whose heartbeat is older than this is taken over.
LOCK_EXPIRES_S = 120.0


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run folder, its marks and its lock."""

    path: Path

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
    def manifest(self) -> Path:
        """Counts, versions, fingerprints and times; written last."""
        return self.path / "manifest.json"

    @property
    def recipe(self) -> Path:
        """The recipe with every setting filled in."""
        return self.path / "recipe.yaml"

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

    def mark(self, folder: Path, stamp: str, facts: Mapping[str, object]) -> None:
        """Mark a stage's folder as done: its fingerprint, its files with sizes and hashes, its facts."""
        files = {
            str(file.relative_to(folder)): {"bytes": file.stat().st_size, "hash": storage.hash_file(file)}
            for file in sorted(folder.rglob("*"))
            if file.is_file() and not file.name.startswith((".", "_"))
        }
        storage.write_json(folder / MARKER, {"fingerprint": stamp, "facts": dict(facts), "files": files})

    def is_done(self, folder: Path, stamp: str) -> bool:
        """Whether a stage is finished with this fingerprint and all its files have their size."""
        marker = self.marker(folder)
        if marker is None or marker.get("fingerprint") != stamp:
            return False
        files: Mapping[str, Mapping[str, int]] = marker["files"]
        return all(_size(folder / name) == facts["bytes"] for name, facts in files.items())

    def stamp(self, folder: Path) -> str:
        """Return the fingerprint of a finished stage; raises RunError if it is not finished."""
        marker = self.marker(folder)
        if marker is None:
            raise RunError(f"{self.path}: {folder.name} is not there yet; run the earlier stages first")
        return str(marker["fingerprint"])

    def unmark(self, folder: Path) -> None:
        """Take a stage's mark away before its files change."""
        (folder / MARKER).unlink(missing_ok=True)

    def keep_only(self, folder: Path, parts: Sequence[str]) -> None:
        """Remove parts of shards that are no longer in the source."""
        wanted = {self.part(folder, part).name for part in parts}
        for file in folder.glob("part-*"):
            if file.name not in wanted:
                file.unlink()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for writing; raises RunError naming who else holds it."""
        path = self.path / ".lock"
        own = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        own |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8)}
        with storage.explained(path):
            self.path.mkdir(parents=True, exist_ok=True)
            with _alone(self.path):
                while not _create(path, own):
                    holder = _holder(path)
                    if _is_alive(holder, path):
                        raise RunError(
                            f"{self.path} is being written by process {holder.get('pid')} on "
                            f"{holder.get('host')} since {holder.get('since')}; wait for it or stop it"
                        )
                    path.unlink(missing_ok=True)
        stop = threading.Event()
        threading.Thread(target=_beat, args=(path, own, stop), daemon=True).start()
        try:
            yield
        finally:
            stop.set()
            if _holder(path) == own:
                path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process of this machine at a time judge and take a lock (where the file system can)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(path: Path, facts: Mapping[str, object]) -> bool:
    """Create the lock file whole and at once; False if there is one."""
    own = path.with_name(f"{path.name}{storage.PARTIAL}{secrets.token_hex(4)}")
    own.write_text(json.dumps(facts), encoding="utf-8")
    try:
        os.link(own, path)
    except (FileExistsError, FileNotFoundError):  # there is one; whose holder may be tidying up right now
        return False
    finally:
        own.unlink(missing_ok=True)
    return True


def _holder(path: Path) -> dict[str, Any]:
    """Return what a lock file says; empty if it says nothing that makes sense."""
    found = storage.read_json(path)
    return found if isinstance(found, dict) else {}


def _started(pid: int) -> str | None:
    """Return when a living process started, or None; tells a reused pid from the old one.

    Where the system counts from its own start, that is used: it stays the same when the clock is set.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        except OSError:
            return str(process.create_time())
        return f"{boot} {fields.rpartition(')')[2].split()[19]}"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _is_alive(holder: Mapping[str, Any], path: Path) -> bool:
    if holder.get("host") == socket.gethostname():
        pid, started = holder.get("pid"), holder.get("started")
        return isinstance(pid, int) and pid > 0 and started is not None and _started(pid) == started
    try:
        return bool(holder) and time.time() - path.stat().st_mtime < LOCK_EXPIRES_S
    except FileNotFoundError:
        return False


def _beat(path: Path, own: Mapping[str, object], stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            if _holder(path) == own:
                os.utime(path)


@dataclass(frozen=True)
class Run:
    """A run to read. Every method returns a Polars frame; the files behind it are plain Parquet."""

    folder: RunFolder

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
        return pl.read_parquet(self.folder.decisions / "concepts.parquet")

    def scores(self) -> "pl.DataFrame":
        """Return one row per embedded sample: its concept, its distance and every score."""
        from curate.config import read_yaml
        from curate.settings.scores import stored_folders

        frame = self._parts(self.folder.assignments, self.folder.concepts)
        for folder in stored_folders(read_yaml(self.folder.recipe.read_text(encoding="utf-8"))):
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
        return pl.read_parquet(folder / "part-*.parquet")

    def _require(self, folder: Path) -> None:
        if self.folder.marker(folder) is None:
            raise RunError(f"{self.folder.path}: {folder.name} is not there yet; finish the run first")


def open_run(path: str | Path) -> Run:
    """Open a run folder for reading. Raises UsageError if there is none at `path`."""
    folder = RunFolder(Path(path))
    if not folder.recipe.exists():
        raise UsageError(f"{path} is not a run folder: it has no recipe.yaml")
    return Run(folder)
