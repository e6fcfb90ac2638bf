"""Scores of the user's own: what their files hold, and how they come to the samples."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pt

from curate import schema
from curate.errors import SourceError, UsageError
from curate.execution.context import Context
from curate.io import paths, storage
from curate.io.filesystem import is_remote
from curate.scores.external.files import ENDINGS, schema_of
from curate.scores.external.uid_join import EXAMPLES, Joined, bring_back, join
from curate.scores.tables.output import Output
from curate.sources.arrow_types import is_text, plain_type

if TYPE_CHECKING:
    from curate.scores.external.external import External

__all__ = ["check", "columns_of_file", "compute", "hashes", "score_files"]


# --- what the files hold ----------------------------------------------------------------------------------


def score_files(settings: "External") -> list[Path]:
    """Return the files; raises UsageError where none is there."""
    try:
        try:
            found = paths.expand([settings.file], {}, extensions=(".parquet",))
        except UsageError:  # a folder of files of text, perhaps
            found = paths.expand([settings.file], {}, extensions=ENDINGS)
    except (UsageError, SourceError) as error:
        raise UsageError(f"score: file {error}") from error
    for file in found:
        if is_remote(file.url):
            raise UsageError(f"score: file {file.url} is not on this machine; copy it first")
    return [Path(file.url) for file in found]


def columns_of_file(settings: "External", file: Path) -> tuple[str, ...]:
    """Return the score columns of a file. Raises UsageError for one that is not there or holds no numbers."""
    found = schema_of(file, settings.on)
    have = ", ".join(f"{field.name} ({field.type})" for field in found)
    asked = () if settings.columns == "auto" else tuple(dict.fromkeys(settings.columns))
    for name in (settings.on, *asked):
        if found.names.count(name) != 1:
            count = "more than one column" if name in found.names else "no column"
            raise UsageError(f"score: {file}: {count} {name!r}; there are {have}")
    kind = plain_type(found.field(settings.on).type)
    if not (is_text(kind) or pt.is_integer(kind)):
        raise UsageError(
            f"score: {file}: column {settings.on!r} must hold uids, text or whole numbers, it is {kind}"
        )
    for name in asked:
        if not _is_number(found.field(name).type):
            raise UsageError(
                f"score: {file}: column {name!r} must hold numbers or truth values, it is {found.field(name).type}"
            )
    names = asked or tuple(f.name for f in found if f.name != settings.on and _is_number(f.type))
    if not names:
        raise UsageError(f"score: {file}: no column of numbers besides {settings.on!r}; there are {have}")
    return names


def _is_number(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_boolean(kind))


def check(settings: "External") -> None:
    """Raise UsageError for files of different columns, or a column that curate has itself."""
    first, *others = score_files(settings)
    names = columns_of_file(settings, first)
    for file in others:
        if (found := columns_of_file(settings, file)) != names:
            raise UsageError(
                f"score: {file} has the columns {', '.join(found)}, {first.name} has {', '.join(names)}; name the "
                "ones to take in columns"
            )
    own = {
        *schema.SAMPLES.names,
        *schema.ASSIGNMENTS.names,
        *schema.FILTER.names,
        f"{settings.folder}_status",
    }
    for name in names:
        if name in own:
            raise UsageError(
                f"score: {first}: curate has a column {name!r} of its own; rename that one, or name the ones to "
                "take in columns"
            )


# --- the scores of each sample ---------------------------------------------------------------


def compute(context: Context, settings: "External", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    if not context.parts:
        return {"scored": 0}
    scratch = context.run.work / f"score-{settings.folder}"
    storage.remove(scratch)  # what an interruption left was made for other buckets, perhaps
    columns = tuple(output.schema.names[1:-1])
    files, found = join(context, score_files(settings), settings.on, columns, output.fingerprint, scratch)
    if hashes(settings) != list(output.inputs):  # before anything that was read gets a final name
        raise SourceError(
            f"{settings.file}: the scores were written to or replaced while they were being read; run again"
        )
    _refuse(settings, found)
    bring_back(context, files, output)
    storage.remove(scratch)
    nonfinite = {name: sum(one.nonfinite[i] for one in found) for i, name in enumerate(columns)}
    return {
        "scored": sum(one.scored for one in found),
        "missing": sum(one.absent for one in found),
        "extra": sum(one.extra for one in found),
        "nonfinite": nonfinite,
        "warnings": [
            f"{count:,} values of {name} are not finite (as float32); they count as missing"
            for name, count in nonfinite.items()
            if count
        ],
    }


def hashes(settings: "External") -> list[object]:
    """Return what the files hold, as hashes."""
    return [storage.hash_file(file) for file in score_files(settings)]


def _refuse(settings: "External", found: Sequence[Joined]) -> None:
    """Raise SourceError for a uid that stands twice in the file, or is not there."""
    repeated, absent = sum(one.repeated for one in found), sum(one.absent for one in found)
    if repeated:
        raise SourceError(
            f"{settings.file}: {repeated:,} uids (column {settings.on!r}) have more than one row, such as "
            f"{_first(one.repeats for one in found)}; each must have one"
        )
    if absent and settings.on_missing == "error":
        raise SourceError(
            f"{settings.file}: {absent:,} of {sum(one.samples for one in found):,} samples have no row, such as "
            f"{_first(one.absences for one in found)}; add them, or set on_missing: null"
        )


def _first(uids: Iterable[Iterable[str]]) -> str:
    return ", ".join(sorted(uid for several in uids for uid in several)[:EXAMPLES])
