"""Which row of a finished run a user means: by uid, place or number, or by what its data call it.

A name is what stands in the column `key` of 0_samples: the path of an image as the source has it, its URL, or the key
of its sample. A user may give it whole, as the file name or the end of the path, or as a path on this machine.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from curate.analysis.address_lookup import places_of
from curate.errors import UsageError
from curate.execution.context import Context, Part
from curate.io.filesystem import is_remote, local_path
from curate.io.remote.cache import ensure_local
from curate.sources.registry import format_of

__all__ = ["LISTED", "find", "rows_with", "uids_of_names"]

#: Rows of one part that are looked at, where many are meant.
LISTED = 10

Found = dict[str, Any]


def find(context: Context, which: str) -> Found:
    """Return the decision of the row that `which` names, with the index of its part.

    In this order: a uid; ``shard:row``; the number of a row; a key, path or URL as it stands; a path on this machine;
    the end of a path; an address that a column of the source has; the beginning of a uid; a name without its ending. Raises UsageError where nothing fits, and
    where several samples do.
    """
    found = _by_uid(context, which) or _by_place(context, which) or _by_number(context, which)
    if found is not None:
        return found
    named = _named(context, which)
    rank = min((rank for rank, _ in named), default=_STEM)
    found = _only(context, which, named, rank) if rank < _STEM else None
    if found is None and "://" in which:
        found = _only(context, which, _at_address(context, which), _WHOLE)
    found = found or _by_prefix(context, which) or _only(context, which, named, _STEM)
    if found is None:
        raise _unknown(context, which)
    return found


def uids_of_names(context: Context, names: Iterable[str]) -> dict[str, str]:
    """Return the uid of each sample that is named by its uid, key, file name or path; what names none is left out.

    Numbers of rows and beginnings of uids name nothing here: a mistyped uid must not become another sample. Raises
    UsageError where a name fits several samples.
    """
    asked = pl.Series(sorted(set(names)), dtype=pl.String)
    found: dict[str, str] = {}
    keyed: dict[str, set[str]] = {}
    for part in context.parts:
        path = ensure_local(context.run.part(context.run.samples, part.name))
        meant = pl.any_horizontal(pl.col("uid", "key").is_in(asked.implode()))
        for uid, key in (
            pl.scan_parquet(path, glob=False).filter(meant).select("uid", "key").collect().iter_rows()
        ):
            found[uid] = uid
            keyed.setdefault(key, set()).add(uid)
    found = {name: uid for name, uid in found.items() if name in set(asked)}
    found = {name: min(uids) for name, uids in keyed.items() if len(uids) == 1 and name in set(asked)} | found
    for name in asked.filter(~asked.is_in(list(found))):
        named = [(rank, row) for rank, row in _named(context, name) if rank < _STEM]
        row = _only(context, name, named, min((rank for rank, _ in named), default=_STEM))
        if row is not None:
            found[name] = row["uid"]
    return found


def rows_with(context: Context, chosen: pl.Expr) -> list[Found]:
    """Return the decisions that hold `chosen`, in the order of the source, few of them."""
    found = []
    for part in context.parts:
        rows = _decisions(context, part).filter(chosen).head(LISTED + 1).collect()
        found += [{**row, "part": part.index} for row in rows.to_dicts()]
    return found


def _decisions(context: Context, part: Part) -> pl.LazyFrame:
    return pl.scan_parquet(ensure_local(context.run.part(context.run.decisions, part.name)), glob=False)


# --- by what the run calls it -------------------------------------------------------------------------------------


def _by_uid(context: Context, which: str) -> Found | None:
    return _first(rows_with(context, pl.col("uid") == which))


def _by_place(context: Context, which: str) -> Found | None:
    shard, colon, number = which.rpartition(":")
    if not colon or not number.isdecimal():
        return None
    return _first(rows_with(context, (pl.col("shard") == shard) & (pl.col("row") == int(number))))


def _by_number(context: Context, which: str) -> Found | None:
    """Return the row of this number; raises UsageError where another sample has it as its key.

    Zeros in front make a key of it, where there is such a key.
    """
    if not which.isdecimal():
        return None
    keyed = [row for rank, row in _named(context, which) if rank == _WHOLE]
    row = None if keyed and which != str(int(which)) else _row_number(context, int(which))
    if row is None or not keyed:
        return row or (_only(context, which, [(_WHOLE, one) for one in keyed], _WHOLE) if keyed else None)
    if {one["uid"] for one in keyed} == {row["uid"]}:
        return row
    raise UsageError(
        f"{context.run.where}: {which!r} is the number of a row and the key of other samples; name one by its uid: "
        f"{_listed([row, *keyed])}"
    )


def _row_number(context: Context, number: int) -> Found | None:
    for part in context.parts:
        if number < part.rows:
            row = _decisions(context, part).slice(number, 1).collect().row(0, named=True)
            return {**row, "part": part.index}
        number -= part.rows
    return None


def _by_prefix(context: Context, which: str) -> Found | None:
    found = rows_with(context, pl.col("uid").str.starts_with(which)) if which else []
    uids = sorted({row["uid"] for row in found})
    if len(uids) > 1:
        shown = ", ".join(uids[:3]) + (" and more" if len(uids) > 3 else "")
        raise UsageError(f"{context.run.where}: several uids begin with {which!r}: {shown}; give more of it")
    return _first(found)


def _first(found: Sequence[Found]) -> Found | None:
    return min(found, key=lambda row: (row["occurrence"], row["part"])) if found else None


# --- by what its data call it -------------------------------------------------------------------------------------

#: How a key fits, the best first: as it stands; as a path on this machine; as the end of a path; without endings.
_WHOLE, _ON_DISK, _END, _STEM = range(4)


def _named(context: Context, which: str) -> list[tuple[int, Found]]:
    """Return (how it fits, decision) of the rows whose key `which` fits best, in the order of the source, few of them."""
    found: list[tuple[int, Found]] = []
    for part in context.parts if which.strip("/\\") else ():
        path = ensure_local(context.run.part(context.run.samples, part.name))
        keys = pl.scan_parquet(path, glob=False).select("key").with_row_index("place")
        fits = keys.select("place", "key", rank=_rank(part, which)).filter(pl.col("rank").is_not_null())
        some = fits.sort("rank", "place").head(LISTED + 1).collect().to_dicts()
        for one in some:
            row = _decisions(context, part).slice(one["place"], 1).collect().row(0, named=True)
            found.append((one["rank"], {**row, "part": part.index, "key": one["key"]}))
    best = min((rank for rank, _ in found), default=None)
    return [one for one in found if one[0] == best]


def _rank(part: Part, which: str) -> pl.Expr:
    """Return how the column `key` fits: a number, null where it does not."""
    key = pl.col("key").str.replace_all("\\", "/", literal=True)
    bare = pl.when(key.str.contains("://", literal=True)).then(key.str.replace("[?#].*$", "")).otherwise(key)
    text = re.sub(r"^(?:file|local)://", "", which).replace("\\", "/")
    text = re.sub(r"^(\./)+", "", text)
    ends = [text, *part.shard.access.values_of(text)]
    name, dot, _ = text.rpartition("/")[2].partition(".")
    folder = "".join(text.rpartition("/")[:2])
    # the key of a sample in a tar is the name of its members up to a dot
    stems = [text.rpartition(".")[0], folder + name] if dot and name else []
    names = [stem.rpartition("/")[2] for stem in stems]
    unended = key.str.replace(r"\.[A-Za-z0-9]{1,5}$", "")
    stemmed = _ends_in(unended, text)
    if stems:
        stemmed = key.is_in(names) | pl.any_horizontal(_ends_in(key, stem) for stem in stems)
    fits: list[tuple[int, pl.Expr]] = [
        (_WHOLE, pl.col("key") == which),
        (_ON_DISK, key.str.replace(r"^(\./)+", "").is_in(_keys_of(part, text))),
        (_END, pl.any_horizontal(_ends_in(one, end) for end in ends for one in (key, bare))),
        (_STEM, stemmed),
    ]
    rank = pl.lit(None, pl.Int32)
    for number, fit in reversed(fits):
        rank = pl.when(fit).then(pl.lit(number, pl.Int32)).otherwise(rank)
    return rank


def _at_address(context: Context, address: str) -> list[tuple[int, Found]]:
    """Return the decisions on rows whose source says this address, though it is not what they are called."""
    found = []
    for part, place, one in places_of(context, address):
        row = _decisions(context, part).slice(place, 1).collect().row(0, named=True)
        found.append((_WHOLE, {**row, "part": part.index, "key": one}))
    return found


def _ends_in(key: pl.Expr, text: str) -> pl.Expr:
    """Return whether a path is `text`, or ends in it after a slash."""
    return (key == text) | key.str.ends_with(f"/{text.lstrip('/')}")


def _keys_of(part: Part, path: str) -> list[str]:
    """Return the keys that an image at a path, here or below the folder of the shard, may have."""
    shard = part.shard
    given = {path} if is_remote(path) else {local_path(path), str(Path(local_path(path)).resolve())}
    found = {path}
    prefix, beside = format_of(shard.format).images_beside(shard)
    for base in map(_closed, shard.access.bases(beside)):
        ends = {base} if is_remote(base) else {local_path(base), str(Path(local_path(base)).resolve())}
        for one in given:
            found |= {prefix + one[len(end) + 1 :] for end in ends if one.startswith(f"{end}/")}
    return sorted(found.union(*map(shard.access.values_of, found), given))


def _closed(folder: str) -> str:
    return folder.rstrip("/")


def _only(context: Context, which: str, named: Sequence[tuple[int, Found]], rank: int) -> Found | None:
    """Return the one sample among the rows that fit so well; raises UsageError where there are several."""
    rows = [row for one, row in named if one == rank]
    if len({row["uid"] for row in rows}) > 1:
        raise UsageError(
            f"{context.run.where}: {which!r} fits several samples; name one by its uid: {_listed(rows)}"
        )
    return _first(rows)


def _listed(rows: Sequence[Found]) -> str:
    """Return uids, with what stands for them in the data, of the first rows."""
    shown = [f"{row['uid']} ({row.get('key') or '{shard}:{row}'.format_map(row)})" for row in rows]
    return ", ".join(shown[:LISTED]) + (" and more" if len(shown) > LISTED else "")


def _unknown(context: Context, which: str) -> UsageError:
    """Return the error for what names no row."""
    where = context.run.where
    shard, colon, number = which.rpartition(":")
    names = sorted({part.shard.name for part in context.parts})
    if colon and number.isdecimal() and shard in names:
        rows = sum(part.rows for part in context.parts if part.shard.name == shard)
        return UsageError(f"{where}: shard {shard} has {rows:,} rows, numbered from 0; got row {number}")
    if colon and number.isdecimal():
        some = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
        return UsageError(f"{where}: no shard {shard!r}; there are {some}")
    return UsageError(
        f"{where}: no sample {which!r}; name one by its uid (or how it begins), by shard:row, by the number of its "
        f"row{_example(context)}"
    )


def _example(context: Context) -> str:
    """Say what names the rows have."""
    for part in context.parts:
        path = ensure_local(context.run.part(context.run.samples, part.name))
        keys = (
            pl.scan_parquet(path, glob=False)
            .select("key")
            .filter(pl.col("key").is_not_null())
            .head(1)
            .collect()
        )
        if len(keys):
            return f", or by its file name, path, URL or key, such as {keys.item()!r}"
    return " (its source gives no file names or keys)"
