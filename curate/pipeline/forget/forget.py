"""`curate forget`: samples are taken out of a run for good, and the run goes on without them.

First it is written down what goes (so that a crash is gone on from), then rows, vectors and scores are taken out of the
tables, what is made of them is removed, decisions, shards, report and exports are made anew, and every file is
searched for what is left. The source is never touched.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.analysis.row_lookup import uids_of_names
from curate.errors import CurateError, RunError, UsageError
from curate.execution import context as base
from curate.execution.context import Context, Progress, log
from curate.execution.parts import with_parts
from curate.io import storage
from curate.io.journal import Journal
from curate.overrides.store import Overrides, user_name
from curate.pipeline import rescore, runner
from curate.pipeline.export import EXPORTS, export_recipe, export_run, noted_exports
from curate.pipeline.forget import tables, texts
from curate.pipeline.forget.texts import Left
from curate.pipeline.forget.who import PENDING, Wanted, find_wanted, meeting, pending
from curate.pipeline.stages.embed import count_outcomes
from curate.recipe import Recipe
from curate.runs import dated
from curate.runs.folder import JOURNAL, MARKER, RunFolder
from curate.runs.forgotten import FORGOTTEN, Forgotten
from curate.runs.run import open_run

__all__ = ["Removed", "forget", "found"]

#: What is made of the rows and is made again (or not needed): removed whole.
_MADE = ("7_report", "6_filtered", "5_decisions", "3_scores/filter", "evaluation", "concept_names.json")
#: Scratch that is not made again when the run goes on; all else in `.work` is.
_KEPT_SCRATCH = {
    "keys", "parts.json", "shards.json", "vectors.json", "retries.json", "recipe.json", "times.json", "texts",
    "references", "wider_access.json", PENDING,
}  # fmt: skip
#: Files that name shards, settings and places, and no samples: the name of one may be part of a path in them.
_OF_SOURCE = {
    "recipe.yaml", "recipe.json", "parts.json", "shards.json", "vectors.json", "manifest.json", FORGOTTEN, EXPORTS,
}  # fmt: skip


@dataclass(frozen=True)
class Removed:
    """What was (or would be) taken out.

    run : where. named, copies, near : samples asked for, exact copies of them that went too, near-duplicates that stay.
    removed : rows by place: `where`, `what` (rows, lines, files) and `n`. left : files that still name a sample, outside
    of the run. older_runs : dated runs that were removed whole. manifest : of the run as it is now.
    """

    run: str
    named: int
    copies: int
    near: int
    removed: list[dict[str, Any]]
    left: list[Left]
    older_runs: list[str]

    def table(self) -> list[list[object]]:
        """Return the rows of a table: where, what, how many."""
        return [[one["where"], one["what"], one["n"]] for one in self.removed]


def found(run: str | Path, uids: Iterable[str] = (), where: str | None = None) -> Wanted:
    """Return what forgetting samples would take out; nothing is changed.

    run : a run folder or its URL. uids : of samples; their file names, paths or keys do too. where : a condition on columns of the source, the samples, the decisions or the scores.
    Raises UsageError where no sample is meant, or a uid is not in the run.
    """
    folder = open_run(run).folder
    context = with_parts(Context(_recipe(folder), folder, base_engine()))
    begun = pending(folder)
    named = [*_uids(context, uids), *(meeting(context, where) if where is not None else ())]
    if begun is not None:
        named = [uid for uid in named if uid not in begun.uids]
    if not named and begun is None:
        raise UsageError(
            f"no sample of {folder.where} is meant; name uids, or give a condition that some meet"
        )
    wanted = find_wanted(context, named) if named else None
    if wanted is None or begun is None:
        return wanted or _require(begun)
    return wanted.joined(begun)


def _uids(context: Context, names: Iterable[str]) -> list[str]:
    """Return uids of samples that may be named by file name, path or key; what names none as it is."""
    asked = list(names)
    found = uids_of_names(context, asked) if asked else {}
    return [found.get(name, name) for name in asked]


def forget(
    run: str | Path,
    wanted: Wanted,
    *,
    also: Sequence[str | Path] = (),
    by: str | None = None,
    progress: Progress = base.silent,
) -> Removed:
    """Take samples out of a run for good, and let it go on without them.

    run : a run folder (of dated runs the latest; older ones that hold the samples are removed whole). wanted : of
    `found`. also : files and folders outside of the run to take them out of. Where it was interrupted, calling it again
    ends it. Raises RunError if anything is left in the run, and what making the decisions anew raises.
    """
    folder = open_run(run).folder
    seen: Counter[tuple[str, str]] = Counter()
    with runner.opened(_recipe(folder), progress=progress) as context:
        wanted.note(folder)
        _take_out(with_parts(context), wanted, seen, by or user_name())
        older = _older_runs(folder, wanted)
    rescore.select_run(rescore.chosen_recipe(folder.where), write=True, progress=progress)
    _export_again(folder, seen, progress)
    outside = list(_outside(also, wanted, seen))
    left = list(texts.left_in(_files_of(folder), wanted.marks))
    if left:
        place, n = left[0]
        raise RunError(
            f"{place}: {n:,} places still name a forgotten sample (and {len(left) - 1:,} more files); please report this"
        )
    storage.remove(folder.work / PENDING)
    removed = [{"where": where, "what": what, "n": n} for (where, what), n in sorted(seen.items()) if n]
    return Removed(
        folder.where, wanted.named, len(wanted.uids) - wanted.named, wanted.near, removed, outside, older
    )


def base_engine() -> Any:  # noqa: ANN401  (any engine)
    """Return the engine for what is only looked at."""
    from curate.execution.engines.local import LocalEngine

    return LocalEngine(1)


def _recipe(folder: RunFolder) -> Recipe:
    return rescore.chosen_recipe(folder.where)


def _require(begun: Wanted | None) -> Wanted:
    if begun is None:
        raise UsageError("no sample is meant")
    return begun


# --- in the run ------------------------------------------------------------------------------------------------


def _take_out(context: Context, wanted: Wanted, seen: Counter[tuple[str, str]], by: str) -> None:
    """Take samples out of all that a run holds, but for what is made of it anew."""
    run = context.run
    forgotten = Forgotten.of(run).remember(run, wanted.known_by, {"by": by, "samples": len(wanted.uids)})
    for name in _MADE:
        _remove(run, run.path / name, seen)
    for path in (*run.duplicates.glob("part-*"), run.duplicates / "_compared", run.duplicates / MARKER):
        _remove(run, path, seen)
    for path in run.work.iterdir() if run.work.exists() else ():
        if path.name not in _KEPT_SCRATCH and not path.name.startswith(".lock"):
            _remove(run, path, seen)
    stages = _stages(run)
    for folder in (one for one in stages if one != run.samples):
        for path in sorted((*folder.rglob("*.parquet"), *folder.rglob("*.arrow"))):
            if folder != run.stage("read"):
                seen[_place(run, path.parent), "rows"] += tables.drop_rows(path, wanted.uids)
    for keys in (True, False):
        for part in context.parts:
            n = tables.blank_samples(context, part, wanted.uids, forgotten, keys=keys)
            seen["0_samples" if not keys else ".work/keys", "rows"] += n
    tables.fingerprint_anew(context)
    storage.remove(run.work / "copies")
    for folder in stages:
        _mark_anew(context, folder, wanted)
    _take_out_of_texts(run, wanted, seen)


def _stages(run: RunFolder) -> list[Path]:
    """Return the folders with a mark whose tables stay."""
    scores = sorted(path for path in run.scores("").glob("*") if path.is_dir() and path.name != "filter")
    every = [run.stage("read"), *tables.vector_folders(run), run.samples, run.concepts, run.refitted, *scores]
    return [folder for folder in every if (folder / MARKER).exists()]


def _mark_anew(context: Context, folder: Path, wanted: Wanted) -> None:
    """Let the mark of a stage say what its files are now, and how many samples they hold."""
    run, mark = context.run, context.run.marker(folder) or {}
    facts = texts.without_marks(mark.get("facts", {}), wanted.known_by)
    if folder in (run.embeddings, run.samples):
        facts |= count_outcomes(context)
    if folder in (run.concepts, run.refitted) and (folder / "assignments").exists():
        counted = tables.count_assigned(run, folder)
        facts |= {"samples": counted} if "samples" in facts else {}
    run.mark(folder, str(mark["fingerprint"]), facts)


def _take_out_of_texts(run: RunFolder, wanted: Wanted, seen: Counter[tuple[str, str]]) -> None:
    """Take samples out of logs, of the decisions of people, and of what else is noted."""
    for path in sorted(run.logs.glob("*")):
        seen["logs", "lines"] += texts.without_lines(path, wanted.marks)
    _take_out_of_journal(run, wanted, seen)
    for path in run.path.glob("*.json"):
        if path.name in _OF_SOURCE:
            continue
        value = storage.read_json(path)
        new = texts.without_marks(value, wanted.marks)
        if value is not None and new != value:
            storage.write_record(path, new)
            seen[path.name, "places"] += 1


def _take_out_of_journal(run: RunFolder, wanted: Wanted, seen: Counter[tuple[str, str]]) -> None:
    gone = set(wanted.uids)
    journal = Journal(run.path / JOURNAL)
    entries = list(journal.entries())
    kept = [
        {**one, "rows": [row for row in one["rows"] if not gone & {row[0], row[2]}]} if "rows" in one else one
        for one in entries
    ]
    n = sum(
        len(one.get("rows", ())) - len(new.get("rows", ())) for one, new in zip(entries, kept, strict=True)
    )
    if n:
        journal.replace(kept)
        seen[JOURNAL, "lines"] += n
    Overrides(run).write_table()


def _remove(run: RunFolder, path: Path, seen: Counter[tuple[str, str]]) -> None:
    if path.exists():
        n = sum(1 for one in path.rglob("*") if one.is_file()) if path.is_dir() else 1
        storage.remove(path)
        seen[
            _place(run, path if path.is_dir() or path.parent == run.path else path.parent), "files made anew"
        ] += n


def _place(run: RunFolder, path: Path) -> str:
    return str(path.relative_to(run.path))


def _files_of(run: RunFolder) -> Iterator[Path]:
    """Yield all files of a run in which a sample could be named."""
    aside = {FORGOTTEN, PENDING, *_OF_SOURCE}
    for path in sorted(run.path.rglob("*")):
        if path.is_file() and path.name not in aside and not path.name.startswith(".lock"):
            yield path


# --- beside it -------------------------------------------------------------------------------------------------


def _older_runs(run: RunFolder, wanted: Wanted) -> list[str]:
    """Remove dated runs beside this one that hold the samples, and parts in their store; return which runs went."""
    root = run.path.parent
    if run.path not in dated.dated_runs(root):
        return []
    gone = []
    with dated.held(root):
        for other in dated.dated_runs(root):
            if other != run.path and next(texts.left_in(_files_of(RunFolder(other)), wanted.marks), None):
                storage.remove(other)
                gone.append(other.name)
        store = root / dated.STORE
        for path in sorted(store.rglob("part-*")) if store.is_dir() else ():
            mine = run.path / path.relative_to(store)
            if str(path.relative_to(store)).startswith("keys"):
                mine = run.work / path.relative_to(store)
            if next(texts.left_in([path], wanted.marks), None) is not None:
                storage.remove(path)
                if mine.exists():
                    dated.link(mine, path)
    return gone


def _export_again(run: RunFolder, seen: Counter[tuple[str, str]], progress: Progress) -> None:
    """Make the exports that a run remembers anew; one that is gone from its place is left alone."""
    for one in noted_exports(run):
        if "://" not in one["out"] and not Path(one["out"]).exists():
            continue
        settings = {f"write.{name}": value for name, value in one["write"].items()}
        try:
            export_run(
                export_recipe(run.where, settings),
                one["format"],
                one["out"],
                rows=one["rows"],
                progress=progress,
            )
        except CurateError as error:
            raise RunError(
                f"{one['out']}: this export cannot be made anew, remove it by hand: {error}"
            ) from error
        seen[one["out"], "export made anew"] += 1


def _outside(also: Sequence[str | Path], wanted: Wanted, seen: Counter[tuple[str, str]]) -> Iterator[Left]:
    """Take samples out of files that are named; yield those that still name one."""
    files = itertools.chain.from_iterable(
        [path] if path.is_file() else (one for one in path.rglob("*") if one.is_file())
        for path in map(Path, also)
    )
    for path in sorted(files):
        seen[str(path), "rows"] += texts.scrub(path, wanted.uids, wanted.marks)
        for left in texts.left_in([path], wanted.marks):
            log.warning("forget: %s still names a forgotten sample (%s places); remove it by hand", *left)
            yield left
