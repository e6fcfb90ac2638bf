"""More places that images may lie in: `source.allow` and `source.root` of a run may grow, and only refused rows are tried again.

What was embedded stays. A folder that comes to `source.root` goes ahead of that of the shard, so an image that was read may
have become another one under its name: then it is no growth.
"""

import filecmp
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.execution.context import Part
from curate.execution.parts import noted_parts
from curate.io import storage
from curate.io.filesystem import is_remote, local_path
from curate.recipe import Recipe, Source
from curate.runs.folder import RunFolder
from curate.sources.access import PathAccess
from curate.sources.arrow_types import is_string, plain_type
from curate.sources.references import local_file
from curate.sources.registry import ShardReader, format_of

__all__ = ["OUTCOMES", "are_more", "note", "other_images", "pending", "settled"]

#: Settings that may grow.
SETTINGS = ("allow", "root")
#: Outcomes of rows that may be read when they have.
OUTCOMES = ("refused_path", "missing_image")
#: Formats whose images lie in a folder that comes before those of `source.root`.
_FOLDER_FIRST = ("folder", "img2dataset")


def are_more(key: str, old: object, new: object) -> bool:
    """Return True if a setting has all that it had before: folders of `root` in the same order, before new ones.

    >>> are_more("allow", ["url"], ["links", "url"]), are_more("root", ["a"], ["b", "a"])
    (True, False)
    """
    if key not in SETTINGS or not isinstance(old, list | None) or not isinstance(new, list):
        return False
    before: Sequence[object] = old or ()
    return set(before) <= set(new) if key == "allow" else list(new[: len(before)]) == list(before)


def note(run: RunFolder, before: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]]) -> None:
    """Note the sources that may lead to more places than `before`, until their refused rows were tried again."""
    olds = {one.get("name"): one for one in before}
    wider = [
        one["name"]
        for one in now
        if (old := olds.get(one["name"])) is not None
        and any((old.get(key) or []) != (one.get(key) or []) for key in SETTINGS)
    ]
    if wider:
        storage.write_record(_record(run), sorted({*pending(run), *wider}))


def pending(run: RunFolder) -> frozenset[str]:
    """Return the sources whose refused rows are still to be tried again."""
    found = storage.read_json(_record(run))
    return frozenset(found if isinstance(found, list) else ())


def settled(run: RunFolder) -> None:
    """Note that they were."""
    storage.remove(_record(run))


def _record(run: RunFolder) -> Path:
    return run.work / "wider_access.json"


def other_images(run: RunFolder, recipe: Recipe, before: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which images that were read would be others, now that new folders of `source.root` come first; empty if none."""
    olds = {one.get("name"): one for one in before}
    found: list[str] = []
    for source in recipe.source:
        roots = (olds.get(source.name) or {}).get("root") or []
        new = [one for one in source.root if one not in roots]
        if source.name in olds and new and len(source.root) > len(roots):
            found += _others(run, recipe, source, tuple(roots), new)
    return found


def _others(
    run: RunFolder, recipe: Recipe, source: Source, roots: tuple[str, ...], new: Sequence[str]
) -> list[str]:
    saved = storage.read_json(run.work / "parts.json") or []
    if not saved or not {row["shard"]["source"] for row in saved} <= {one.name for one in recipe.source}:
        return []  # nothing was read, or by sources of other names
    access = PathAccess(roots, "outside" in source.allow, "links" in source.allow, source.template)
    for part in noted_parts(run, recipe):
        if part.shard.source != source.name or not _by_path(part):
            continue
        keys = _read_keys(run, part)
        if keys and any(map(is_remote, new)):
            return [f"source.root gets {new[0]}, in which {len(keys):,} images that were read may be others"]
        for key in keys:
            if (one := _other(part, key, access, new)) is not None:
                return [f"source.root gets {new[0]}, in which {key} is another image ({one})"]
    return []


def _by_path(part: Part) -> bool:
    """Return True if images are named by paths that begin at the folders of `source.root`."""
    if part.shard.format in _FOLDER_FIRST or part.columns.image is None:
        return False
    schema = ShardReader().schema(part.shard)
    if part.columns.image not in schema.names:
        return False
    return is_string(plain_type(schema.field(part.columns.image).type))


def _read_keys(run: RunFolder, part: Part) -> list[str]:
    """Return the relative paths of the images of a part that were read."""
    path = run.part(run.samples, part.name)
    if not path.exists():
        return []
    rows = pl.DataFrame(storage.read_table(path, ["key", "outcome"]))
    keys = rows.filter((pl.col("outcome") == "ok") & pl.col("key").is_not_null())["key"].unique(
        maintain_order=True
    )
    return [key for key in keys.to_list() if "://" not in key and not key.startswith("/")]


def _other(part: Part, key: str, access: PathAccess, new: Sequence[str]) -> Path | None:
    """Return the file that a path leads to now, if that is another one than before."""
    prefix, beside = format_of(part.shard.format).images_beside(part.shard)
    ref = key.removeprefix(prefix)
    for root in new:
        there = Path(local_path(root)) / access.named(ref)
        if there.is_file():
            before = local_file(ref, beside, access)
            same = (
                before is None
                or before.resolve() == there.resolve()
                or filecmp.cmp(before, there, shallow=False)
            )
            return None if same else there
    return None
