"""Dated runs that share their files: begun from the latest, committed after success, thrown away when old.

::

    runs/laion/
      2026-11-21T030000Z/   a run folder like any other; the name is when it began (UTC)
      latest                the name of the newest run that succeeded
      store/                every part of the stages that take long, under its name: 1_embeddings/part-....arrow

Files of a run are replaced and never written in place. So a new run begins with hard links to those of the latest,
makes anew what has changed, and leaves the other as it was; what both have is on the disk once. The store remembers
parts of shards that are gone from the source for a while, until `gc` finds that no run lists them any more. Where
the file system has no hard links, files are copied.
"""

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from curate.errors import RunError, UsageError
from curate.io import checksums, storage
from curate.io.filesystem import is_remote
from curate.io.journal import Journal
from curate.runs.folder import JOURNAL, LATEST, RunFolder, latest
from curate.runs.layout import MORE_EMBEDDINGS

__all__ = [
    "STORE",
    "clear",
    "commit",
    "dated_runs",
    "held",
    "latest",
    "link",
    "new_run",
    "part_name",
    "require_root",
    "stored_folders",
    "time_of",
]

STORE = "store"
#: Folder names are times, to the second, in an order that is that of the names.
TIME = "%Y-%m-%dT%H%M%SZ"
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")
#: How long to wait for another process that begins, commits or removes runs here; neither takes long.
WAIT_S = 60.0
#: What a new run does not take over from the run before, by the folder it is in.
_OWN = {
    ".": {"7_report", "evaluation", "logs", "manifest.json", "concept_names.json"},
    ".work": {"undo", "times.json"},
}


def dated_runs(root: Path | str) -> list[Path]:
    """Return the dated run folders below `root`, oldest first."""
    return sorted(path for path in Path(root).glob("*Z") if _NAME.fullmatch(path.name) and path.is_dir())


def new_run(root: Path | str, parts: Callable[[Path], Iterable[str]] = lambda cache: ()) -> Path:
    """Return the folder for a run that begins now: `root/<UTC time>`, with the files of the latest in it.

    parts : (file that remembers fingerprints of shards) -> names of the parts of the source that will be run; those
    that the store has and the latest run has not are taken from the store (by default, none). A folder newer than
    the latest was not committed: its run was interrupted or failed, and it is gone on with. Raises UsageError where
    `root` cannot hold dated runs, and what `parts` raises.
    """
    require_root(root)
    root = Path(root)
    with held(root):
        clear(root)
        before = latest(root)
        unfinished = [path for path in dated_runs(root) if before is None or path.name > before.name]
        if unfinished:
            return unfinished[-1]
        run = root / _next_name(before)
        with storage.atomic_folder(run) as new:
            if before is not None:
                shutil.copytree(
                    before, new, copy_function=link, dirs_exist_ok=True,
                    ignore=lambda folder, names: _not_taken(Path(folder).relative_to(before), names),
                )  # fmt: skip
            _take_from_store(root / STORE, RunFolder(new), parts)
    return run


def require_root(root: Path | str) -> None:
    """Raise UsageError where `root` cannot hold dated runs."""
    if is_remote(str(root)):
        raise UsageError(f"dated runs share files on one disk, got {root}; name a folder on this machine")
    root = Path(root)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file and cannot hold dated runs; name another folder with --out")
    if (root / "recipe.yaml").exists():
        raise UsageError(
            f"{root} is a run folder itself and cannot hold dated runs; name another with --out (or run: in the recipe)"
        )


@contextlib.contextmanager
def held(root: Path) -> Iterator[None]:
    """Hold a root for beginning, committing or removing runs; wait a while for who else does."""
    deadline = time.monotonic() + WAIT_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(RunFolder(root).lock())
                break
            except RunError:
                if time.monotonic() > deadline or not (root / ".lock").exists():
                    raise
                time.sleep(0.2)
        yield


def clear(root: Path) -> None:
    """Remove what a process that was killed left half-made; only the holder of the root makes such things."""
    for path in root.glob(f".*{storage.PARTIAL}*"):
        if not path.name.startswith(".lock"):
            storage.remove(path)
    storage.clear_partials(root / STORE)


def _next_name(before: Path | None) -> str:
    """Return the name of now; after that of the run before, even if the clock was set back."""
    now = datetime.now(UTC)
    if before is not None:
        now = max(now, time_of(before) + timedelta(seconds=1))
    return now.strftime(TIME)


def time_of(run: Path) -> datetime:
    """Return when a dated run began."""
    return datetime.strptime(run.name, TIME).replace(tzinfo=UTC)


def _not_taken(folder: Path, names: Iterable[str]) -> set[str]:
    own = _OWN.get(str(folder), set())
    return {name for name in names if name in own or name.startswith(".lock") or storage.PARTIAL in name}


def link(source: str | Path, target: str | Path) -> None:
    """Give a file a second name; a copy where the file system has no hard links, and of what is written in place."""
    if Path(source).name == JOURNAL:
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def stored_folders(run: RunFolder) -> dict[str, Path]:
    """Return the folders of a run whose parts are worth remembering, by their names in the store."""
    named = {"keys": run.work / "keys"}
    scores = [
        path for path in sorted(run.scores("").glob("*")) if path.is_dir() and path != run.scores("filter")
    ]
    more = sorted(run.path.glob(f"{MORE_EMBEDDINGS}/*"))
    for folder in (run.samples, run.embeddings, *more, run.assignments, *scores):
        named[str(folder.relative_to(run.path))] = folder
    return {name: folder for name, folder in named.items() if folder.is_dir()}


def _parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def _take_from_store(store: Path, run: RunFolder, parts: Callable[[Path], Iterable[str]]) -> None:
    """Link parts that the store has of shards that are in the source, where the run has not got them.

    Only those: a folder that is done with its parts is read as a whole, and must hold no others.
    """
    if not store.is_dir() or not run.recipe.exists():
        return
    run.work.mkdir(exist_ok=True)
    names = set(parts(run.work / "shards.json"))
    for name, folder in stored_folders(run).items():
        for file in _parts_in(store / name):
            if part_name(file) in names and not (folder / file.name).exists():
                link(file, folder / file.name)
                if (record := checksums.read(file)) is not None:
                    checksums.write(folder / file.name, record)


def part_name(file: Path) -> str:
    """Return the name of the part that a file is about."""
    return file.stem.removeprefix("part-")


def commit(root: Path | str, run: Path | str) -> None:
    """Make a finished run the latest: its parts are linked into the store first, then `latest` names it.

    Raises RunError if it is not finished, UsageError if it is not a dated run of `root`.
    """
    root, run = Path(root), Path(run)
    if run.resolve().parent != root.resolve() or not _NAME.fullmatch(run.name):
        raise UsageError(f"{run} is no dated run of {root}; begin one with curate run RECIPE --dated")
    if not isinstance(storage.read_json(run / "manifest.json"), dict):
        raise RunError(
            f"{run} is not finished (it has no manifest.json) and cannot be the latest; run it again"
        )
    with held(root), storage.explained(root / STORE):
        before = latest(root)
        if before is not None and before.name > run.name:
            raise RunError(f"{root}: the latest run is {before.name}, which is newer than {run.name}")
        if before is not None and before != run:
            _take_decisions(before, run)
        for name, folder in stored_folders(RunFolder(run)).items():
            (root / STORE / name).mkdir(parents=True, exist_ok=True)
            records = _records(RunFolder(run), folder)
            for file in _parts_in(folder):
                _remember(file, root / STORE / name / file.name, records.get(file))
        with storage.atomic(root / LATEST) as partial:
            partial.write_text(f"{run.name}\n", encoding="utf-8")


def _take_decisions(before: Path, run: Path) -> None:
    """Take over what people decided about the run before while this one was made."""
    own = Journal(run / JOURNAL)
    known = {entry["id"] for entry in own.entries()}
    newer = [entry for entry in Journal(before / JOURNAL).entries() if entry["id"] not in known]
    if newer:
        own.append(newer)


def _records(run: RunFolder, folder: Path) -> dict[Path, checksums.Record]:
    """Return what the mark of a finished stage knows of its files."""
    marked = run.concepts if folder == run.assignments else folder
    files = (run.marker(marked) or {}).get("files", {})
    return {marked / name: record for name, record in files.items()}


def _remember(file: Path, stored: Path, record: checksums.Record | None) -> None:
    """Link a part into the store, over an older one of that name, with a record by which damage is noticed later."""
    if stored.exists():
        here, there = file.stat(), stored.stat()
        if (here.st_size, here.st_mtime_ns) == (
            there.st_size,
            there.st_mtime_ns,
        ):  # the same file, or its copy
            return
    partial = stored.with_name(f".{stored.name}{storage.PARTIAL}{os.getpid()}")
    partial.unlink(missing_ok=True)
    checksums.drop_sidecars(stored)
    link(file, partial)
    partial.replace(stored)
    if record is not None:
        checksums.write(stored, record)
