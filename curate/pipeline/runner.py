"""The order of the stages, in one place. The command line and the flows both call this."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import yaml

from curate.analysis.summary.counts import count_reasons, versions
from curate.errors import ModelError, RunError, UnusableLimitError, UsageError
from curate.execution import context as base
from curate.execution.context import Context, Progress
from curate.execution.engines.choice import make_engine, on_engine
from curate.execution.parts import with_parts
from curate.io import storage
from curate.io.remote.working_copy import COPY_FOLDER
from curate.io.yaml import read_yaml
from curate.pipeline import wider_access
from curate.pipeline.failed_rows import embed_again
from curate.pipeline.order import STAGES
from curate.pipeline.stages import embed_model, filter, read, report, score, select, write
from curate.pipeline.stages.embed_precision import as_begun
from curate.pipeline.time_limit import run_limited
from curate.progress import PeakMemory
from curate.recipe import FAMILIES, Embed, Recipe, Source
from curate.runs.folder import FORMAT_VERSION, MARKER, RunFolder, folder_of
from curate.runs.forgotten import OUTCOME as FORGOTTEN
from curate.runs.layout import marked_stages, stages_until
from curate.runs.logs import log_to, note_stage
from curate.runs.undo import undone
from curate.schema import PASSING
from curate.scores import registry as score_families
from curate.scores.registry import families_of
from curate.selection.rows.choose import missing_scores

__all__ = [
    "STAGES",
    "Outcome",
    "check_model",
    "check_request",
    "opened",
    "require_done",
    "run",
    "run_stage",
    "without_score",
]


@dataclass(frozen=True)
class Outcome:
    """What a call did: the stages that had work, and the manifest (None before the last stage)."""

    worked: tuple[str, ...]
    manifest: Mapping[str, Any] | None


def run(
    recipe: Recipe,
    *,
    until: str = "report",
    force: bool = False,
    refit: bool = False,
    progress: Progress = base.silent,
) -> Outcome:
    """Run all stages up to `until`; finished ones are not repeated.

    force : a run folder made from another source or model is emptied first (otherwise refused).
    refit : concepts are fitted anew. Raises UnusableLimitError, after everything is written, if more
    rows are unusable than `limits.unusable` allows.
    """
    worked, stages = [], _up_to(until)
    with opened(recipe, force=force, refit=refit, progress=progress) as context:
        if "embed" in stages:
            check_model(context)
        for stage in stages:
            context, did = run_stage(context, stage)
            worked += [stage] if did else []
        manifest = storage.read_json(context.run.manifest) if until == "report" else None
    if manifest is not None:
        check_limits(recipe, manifest)
    return Outcome(tuple(worked), manifest)


def check_model(context: Context) -> None:
    """Raise ModelError where a run that is still to embed cannot have its model; what cannot be read at all is said first."""
    try:
        embed_model.check_model(context)
    except ModelError:
        STAGES["read"](context)
        raise


def _up_to(until: str) -> list[str]:
    if until not in STAGES:
        raise UsageError(f"--until must be one of {', '.join(STAGES)}, got {until!r}")
    return list(stages_until(until))


@contextlib.contextmanager
def opened(
    recipe: Recipe,
    *,
    force: bool = False,
    refit: bool = False,
    undo: bool = False,
    progress: Progress = base.silent,
) -> Iterator[Context]:
    """Open (or make) the run folder for writing: locked, checked against the recipe, with its engine.

    undo : an error leaves recipe, scores and decisions as they were (`curate.runs.undo`). Raises UsageError for a folder
    that holds something else.
    """
    check_request(recipe)
    run = folder_of(recipe)
    if run.path.exists() and not run.path.is_dir():
        raise UsageError(f"{run.where} is a file, not a run folder; name another with --out")
    if force or not run.recipe.exists():
        read.check_sources(recipe)  # before a folder is made, or emptied
    with (
        storage.explained_below(run.path),
        run.lock(there=recipe.remote.lock),
        undone(run) if undo else contextlib.nullcontext(),
    ):
        _check_format(run)
        _check_same(run, recipe, force=force)
        storage.clear_partials(run.path)
        if _has_work(run) and (made := _made_with(run)):
            wider_access.note(
                run, _sections(made[0], "source"), _sections(read_yaml(recipe.to_yaml()), "source")
            )
        _note_recipe(run, recipe)
        try:
            with log_to(run.logs), make_engine(recipe) as engine:
                here = as_begun(recipe, on_engine(recipe, engine), run)
                yield Context(here, run, engine, progress=progress, refit=refit)
        except BaseException:
            storage.clear_partials(run.path)  # of workers that were ended in the middle of a file
            raise


def check_request(recipe: Recipe) -> None:
    """Raise UsageError for a column or condition that cannot be, before any work is done."""
    score_families.check_recipe(recipe, score.SOURCES)
    filter.check_recipe(recipe)
    select.check_recipe(recipe)
    write.check_recipe(recipe)
    report.check_recipe(recipe)


def _check_format(run: RunFolder) -> None:
    """Raise RunError for a folder that a later curate has laid out in another way."""
    manifest = storage.read_json(run.manifest)
    made = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(made, int) and made > FORMAT_VERSION:
        raise RunError(
            f"{run.where} has format_version {made}, this curate knows {FORMAT_VERSION}: upgrade curate, or name another folder"
        )


def _check_same(run: RunFolder, recipe: Recipe, *, force: bool) -> None:
    """Refuse a folder made from another source or model, saying what differs; with `force`, empty it."""
    told = _made_with(run)
    if not told:
        strangers = [path.name for path in run.path.iterdir() if not path.name.startswith(".")]
        if strangers:
            raise UsageError(
                f"{run.where} is not empty and no run folder (it holds {min(strangers)}); name another with --out"
            )
        return
    now = read_yaml(recipe.to_yaml())
    differs = min(([line for part in ("source", "embed") for line in _differences(before, now, part)]
                   for before in told), key=len)  # fmt: skip
    if not differs and _has_work(run):
        differs = wider_access.other_images(run, recipe, _sections(told[0], "source"))
    if not differs and _paths(now) not in map(_paths, told):
        differs = _other_data(run, recipe)
    if differs and not force and _has_work(run):
        raise UsageError(
            f"{run.where} was made differently: {'; '.join(differs)}; name another folder, or replace it with --force"
        )
    if differs:
        for path in run.path.iterdir():
            if path not in (run.path / ".lock", run.path / COPY_FOLDER, run.recipe):
                storage.remove(path)
        storage.remove(run.recipe)  # last: without it, what an interruption leaves is no run folder


def _has_work(run: RunFolder) -> bool:
    """Return True if something was computed that would be lost: a first try that failed leaves nothing."""
    return any(run.embeddings.glob("part-*")) or any(run.path.glob(f"[0-9]_*/**/{MARKER}"))


def _paths(recipe: Mapping[str, Any]) -> list[Any]:
    """Return the paths of the sources of a recipe."""
    return [one.get("path") for one in _sections(recipe, "source")]


def _sections(recipe: Mapping[str, Any], part: str) -> list[Mapping[str, Any]]:
    """Return a part of a recipe as a list: one mapping, or those of several sources."""
    value = recipe.get(part) or {}
    return list(value) if isinstance(value, list) else [value]


def _other_data(run: RunFolder, recipe: Recipe) -> list[str]:
    """Say that none of the shards a run was made of is in its source, if so: then it did not grow or move."""
    saved = storage.read_json(run.work / "parts.json")
    if not saved or not _has_work(run):
        return []
    with TemporaryDirectory() as scratch:  # what is refused leaves the run as it was
        for name in ("parts.json", "shards.json"):
            storage.write_record(Path(scratch) / name, storage.read_json(run.work / name) or {})
        found, _ = read.find_parts(recipe, Path(scratch) / "shards.json")
    if {part.name for part in found} & {row["name"] for row in saved}:
        return []
    paths = ", ".join(pattern for source in recipe.source for pattern in source.patterns)
    return [f"none of its {len({row['shard']['name'] for row in saved}):,} shards is in source.path {paths}"]


def _made_with(run: RunFolder) -> list[dict[str, Any]]:
    """Return the recipe a folder was last run with: as noted, and as `recipe.yaml` says.

    Where the two differ, the file was damaged, or edited (because the source has moved, say).
    """
    noted = storage.read_json(run.work / "recipe.json")
    told = [noted] if isinstance(noted, dict) else []
    if run.recipe.exists():
        with contextlib.suppress(yaml.YAMLError, UnicodeDecodeError):
            told.append(read_yaml(run.recipe_text()))
    return [one for one in told if isinstance(one, dict) and isinstance(one.get("source"), dict | list)]


def _note_recipe(run: RunFolder, recipe: Recipe) -> None:
    """Write the recipe into the folder, for people, and once more with a checksum."""
    text = recipe.to_yaml()
    if storage.read_json(run.work / "recipe.json") != (values := read_yaml(text)):
        storage.write_record(run.work / "recipe.json", values)
    if not run.recipe.exists() or storage.ensure_local(run.recipe).read_bytes() != text.encode():
        with storage.atomic(run.recipe) as partial:
            partial.write_text(text, encoding="utf-8")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], part: str) -> list[str]:
    """Say which settings of a part of two recipes differ; of sources, those of one that has no like any more.

    A source that comes, goes or moves is no difference: its shards are known by what they hold.
    """
    olds, news = _sections(before, part), _sections(now, part)
    found: list[str] = []
    for place, old in enumerate(olds):
        prefix = f"{part}.{place}." if len(olds) > 1 else f"{part}."
        differing = [_differing(old, new, part, prefix) for new in news]
        fewest: list[str] = min(differing, key=len)
        found += fewest
    return found


#: Settings that say where rows are and how they are reached; the rows themselves say whether they are others.
_WHERE = ("device", "storage_options", "path", "name", "files")


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], part: str, prefix: str) -> list[str]:
    """Say which settings of one section differ, those of where and how aside.

    A setting that one of them has not is no difference while the other has its default: a run made before there
    was such a setting is no other run. A limit that was raised lets the run grow.
    """
    fields = (Source if part == "source" else Embed).model_fields

    def differ(key: str) -> bool:
        if key in _WHERE or old.get(key) == new.get(key):
            return key == "files" and (old.get(key) is None) != (new.get(key) is None)
        if key == "limit" and old.get(key) is not None:
            return new.get(key) is not None and new[key] < old[key]
        if wider_access.are_more(key, old.get(key), new.get(key)):
            return False
        default = None if key not in fields else fields[key].get_default(call_default_factory=True)
        default = list(default) if isinstance(default, tuple) else default  # as YAML has it
        return not ((key not in old and new[key] == default) or (key not in new and old[key] == default))

    return [
        f"{prefix}{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in {**old, **new} if differ(key)
    ]


def run_stage(context: Context, stage: str) -> tuple[Context, bool]:
    """Run one stage; return the context for the next and whether anything was to do."""
    started = time.monotonic()
    if stage != "read" and not context.parts:
        context = with_parts(context)
    with PeakMemory() as peak:
        context, did = _done(context, stage)
    if did:
        _note_time(context, stage, time.monotonic() - started, peak.bytes)
    if stage == "report" and (did or not _is_current(context)):
        write_manifest(context)
    return context, did


def _done(context: Context, stage: str) -> tuple[Context, bool]:
    """Run one stage, as `run_stage` does, without noting it."""
    seconds = (context.recipe.limits.time or {}).get(stage)
    earlier = stage == "embed" and not isinstance(context.run, _Settled)
    passing = earlier and context.facts(context.run.embeddings).get("passing")
    if seconds is None or isinstance(context.run, _Settled):  # where nothing may be done, nothing takes long
        did = STAGES[stage](context).run()
    else:
        did = run_limited(context, stage, seconds)
    if passing:
        did = _try_again(context, PASSING) or did
    if earlier and wider_access.pending(context.run):
        did = _try_again(context, wider_access.OUTCOMES) or did
        wider_access.settled(context.run)
    if stage == "read":
        context = with_parts(context)
    return context, did


def _try_again(context: Context, outcomes: Sequence[str]) -> bool:
    """Embed rows with these outcomes again, which may be others now; return whether any is."""
    embed_again(context, outcomes)
    return STAGES["embed"](context).run()


class _Settled(RunFolder):
    """A run folder in which no stage may change anything."""

    def unmark(self, folder: Path) -> NoReturn:
        """Refuse: a stage that takes its mark away has something to do."""
        name = "0_samples" if folder == self.work / "keys" else str(folder.relative_to(self.path))
        first = f"run {self.recipe}"
        if folder.parent == self.scores(""):
            first = f"score {self.path}" + (f" {folder.name}" if folder.name in FAMILIES else "")
        raise UsageError(
            f"{self.path}: {name} is not there or not up to date with the source and the recipe; "
            f"first: curate {first}"
        )

    def publish(self, new: Path, folder: Path) -> NoReturn:
        """Refuse: the stage had something to do."""
        self.unmark(folder)


def require_done(context: Context, stage: str) -> Context:
    """Return the context with its parts; raises UsageError if a stage before `stage` has anything to do."""
    settled = replace(context, run=_Settled(context.run.path))
    for earlier in _up_to(stage)[:-1]:
        settled, _ = run_stage(settled, earlier)
    return replace(context, parts=settled.parts)


def _note_time(context: Context, stage: str, seconds: float, peak: int | None) -> None:
    """Remember how long a stage took and the most memory that all processes held meanwhile, for the manifest."""
    path = context.run.work / "times.json"
    times = storage.read_json(path) or {}
    rows = context.rows
    times[stage] = {
        "seconds": round(seconds, 3),
        "rows": rows,
        "rows_per_s": round(rows / max(seconds, 1e-9), 1),
    }
    times[stage] |= {} if peak is None else {"peak_memory": peak}
    times[stage] |= {"worked": worked} if (worked := context.worked.get(stage)) else {}
    storage.write_record(path, times)
    note_stage(stage, times[stage])


def _is_current(context: Context) -> bool:
    """Whether the manifest is about the stages as they are now."""
    manifest = storage.read_json(context.run.manifest)
    if not isinstance(manifest, dict):
        return False
    noted = {name: facts["fingerprint"] for name, facts in manifest["stages"].items()}
    return noted == {name: context.run.fingerprint(folder) for name, folder in _folders(context).items()}


def _folders(context: Context) -> dict[str, Path]:
    """Return the folder that each stage marks."""
    families = [one.folder for one in families_of(context.recipe)]
    return context.run.stages(marked_stages(families, refitted=context.recipe.dedup.blocks is not None))


def write_manifest(context: Context) -> dict[str, Any]:
    """Write the manifest: what went in and out, from what, by what, and how long it took."""
    run = context.run
    counts = count_reasons(context)
    manifest = {
        "format_version": FORMAT_VERSION,
        "written": round(time.time(), 3),
        "counts": counts,
        "bad_shards": context.facts(run.work / "keys").get("bad_shards", []),
        "embedding_space": context.facts(run.embeddings).get("space"),
        "stages": {
            name: {"fingerprint": run.fingerprint(folder), **context.facts(folder)}
            for name, folder in _folders(context).items()
        },
        "times": storage.read_json(run.work / "times.json") or {},
        "parts": [{"name": p.name, "shard": p.shard.name, "rows": p.rows} for p in context.parts],
        "versions": versions(),
    }
    storage.write_record(run.manifest, manifest)
    return manifest


def without_score(recipe: Recipe) -> str | None:
    """Return what to say where many rows of a run lack the score that they were selected by, else None."""
    run = folder_of(recipe)
    facts = (run.marker(run.decisions) or {}).get("facts", {})
    found = facts.get("without_score")
    if not found:
        return None
    return missing_scores(recipe.select, found["rows"], facts["eligible"], found["kept"], found["statuses"])


def check_limits(recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    """Raise UnusableLimitError if more rows of a finished run are unusable than the recipe allows."""
    counts = manifest["counts"]
    unusable, rows = sum(n for why, n in counts["unusable"].items() if why != FORGOTTEN), counts["rows"]
    if rows and unusable / rows > recipe.limits.unusable:
        worst = max(counts["unusable"], key=counts["unusable"].get)
        raise UnusableLimitError(
            f"finished, but {unusable:,} of {rows:,} rows ({unusable / rows:.1%}) are unusable, mostly {worst}; "
            f"limits.unusable allows {recipe.limits.unusable:.1%} (0_samples says why, row by row)"
        )
