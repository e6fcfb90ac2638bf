"""What scores and conditions need of the rows, captions or labels: refused before embedding where no row has it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from curate.errors import SourceError, UsageError
from curate.execution.context import Part, log
from curate.filtering.conditions import table_columns
from curate.filtering.source_columns import as_frame
from curate.filtering.sql import parsed
from curate.io import storage
from curate.ordering.keys import score_of
from curate.recipe import Recipe, ScoreFilter
from curate.scores.registry import families_of, score_columns
from curate.sources.registry import ShardReader

__all__ = ["check_needs", "columns_lack", "rows_lack", "values_lack", "warn_of_needs"]

#: Rows of a column that are looked at together.
_BLOCK_ROWS = 65_536
_BATCH_BYTES = 32 << 20

#: Columns of the samples that are null where no row has a caption, a label, or an image that is decoded.
_NULL_WITHOUT = {
    "caption": ("caption", "caption_length"), "label": ("label",), "text": (), "image": (), "size": ("width", "height"),
}  # fmt: skip


def columns_lack(recipe: Recipe, parts: Iterable[Part]) -> dict[str, str]:
    """Return what no part has columns for, and what to say of it.

    It is `caption`, `label`, `image`, `text` (vectors of captions beside those of images), or `size` (of images that are
    decoded).
    """
    columns = [part.columns for part in parts if part.rows]
    if not columns:
        return {}
    lack = {}
    if not any(one.captions for one in columns):
        lack["caption"] = "the source has no captions; source.caption names their column"
    if not any(one.label for one in columns):
        lack["label"] = "the source has no labels; source.label names their column"
    if all(one.image is None for one in columns):
        lack["image"] = "the source has no images; source.image names their column"
    if recipe.embed.own_vectors:
        lack["size"] = (
            "no image is read where vectors are given; source.width and source.height are columns of the source"
        )
        if not any(one.text_vector for one in columns):
            lack["text"] = "there are no vectors of captions (embed.text_column names their column)"
    elif "caption" in lack:
        lack["text"] = lack["caption"]
    elif "image" in lack:
        lack["text"] = "there are captions without images"
    return lack


def values_lack(recipe: Recipe, parts: Iterable[Part]) -> dict[str, str]:
    """Return what `columns_lack` does, also for columns without any value: each is read up to its first one."""
    parts = [part for part in parts if part.rows]
    return _with_nulls(recipe, parts, lambda part, role: _has_value(part, _columns_of(part, role)))


def rows_lack(recipe: Recipe, parts: Iterable[Part], keys: Callable[[Part], Path]) -> dict[str, str]:
    """Return what `columns_lack` does, also where none of the rows that were read has a caption, or a label.

    keys : the table of the rows of a part.
    """
    parts = [part for part in parts if part.rows]
    return _with_nulls(recipe, parts, lambda part, role: _any_row(keys(part), role))


def _with_nulls(recipe: Recipe, parts: Sequence[Part], has: Callable[[Part, str], bool]) -> dict[str, str]:
    """Return what the columns lack, and what the rows do where it matters."""
    lack = columns_lack(recipe, parts)
    for role in ("caption", "label"):
        gone = {role, "text"} if role == "caption" and not recipe.embed.own_vectors else {role}
        if (
            parts
            and role not in lack
            and _matters(recipe, gone)
            and not any(has(part, role) for part in parts)
        ):
            names = sorted({name for part in parts for name in _columns_of(part, role)})
            why = f"no row has a {role} (column {', '.join(names)}; another is named with source.{role})"
            lack |= dict.fromkeys(gone, why)
    return lack


def _columns_of(part: Part, role: str) -> tuple[str, ...]:
    if role == "caption":
        return part.columns.captions
    return () if part.columns.label is None else (part.columns.label,)


def _has_value(part: Part, names: Sequence[str]) -> bool:
    """Return True if a row of a part has a value in one of the columns, or they are none that can be read by themselves."""
    try:
        here = ShardReader().schema(part.shard)
        wanted = [name for name in names if name in here.names]
        if not wanted:
            return bool(names)  # members of tars and the like
        for start in range(part.start, part.stop, _BLOCK_ROWS):
            block = np.arange(start, min(start + _BLOCK_ROWS, part.stop))
            for table in ShardReader().read_rows(part.shard, block, batch_bytes=_BATCH_BYTES, columns=wanted):
                for name in wanted:
                    values = pl.DataFrame(table.select([name]))[name]
                    known = values.is_not_null() & (values != "" if values.dtype == pl.String else True)
                    if known.any():
                        return True
    except SourceError:  # reading it says what is wrong
        return True
    return False


def _any_row(path: Path, role: str) -> bool:
    """Return True if a row has a caption or label, or none of them can be used (another error says so)."""
    frame = pl.DataFrame(storage.read_table(path, [role, "outcome"]))
    sound = frame.filter(pl.col("outcome") == "ok")
    return sound.is_empty() or bool((sound[role].fill_null("") != "").any())


def _matters(recipe: Recipe, roles: Iterable[str]) -> bool:
    """Return True if something would be refused, or be null, without them."""
    lack = dict.fromkeys(roles, "")
    return bool(_unmet(recipe, lack) or _idle(recipe, lack))


def check_needs(recipe: Recipe, lack: Mapping[str, str]) -> None:
    """Raise UsageError where a decision hangs on what no row has. lack : what `columns_lack` and the like return."""
    if lack and (unmet := _unmet(recipe, lack)):
        raise UsageError(unmet)


def warn_of_needs(recipe: Recipe, lack: Mapping[str, str]) -> None:
    """Warn of scores that no row can have."""
    for family, why in _idle(recipe, lack):
        log.warning("score: %s will be null for every row: %s", family, why)


def _idle(recipe: Recipe, lack: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the families somebody asked for that will be null for every row, each with why; the default is none of them."""
    return [
        (family.folder, lack[need])
        for family in recipe.score
        for need in family.row_needs[:1]
        if need in lack and family.family != "clip_score" and family.needed
    ]


def _unmet(recipe: Recipe, lack: Mapping[str, str]) -> str | None:
    """Return why a recipe cannot be served where no row has what `lack` names; None if it can."""
    lost = _lost_columns(recipe, lack)
    for family in families_of(recipe):
        if "label" in family.row_needs and "label" in lack and family.needed:
            asks = [f"{name} is label" for name in ("labels", "per") if getattr(family, name, "") == "label"]
            asks += [f"kind is {family.kind}"] if hasattr(family, "kind") else []
            setting = f".{asks[0]}, but" if asks else ":"
            return f"score: {family.folder}{setting} no usable sample has a label ({lack['label']})"
    text = "text" if recipe.embed.own_vectors else "caption"
    if text in lack and recipe.cluster.on != "image":
        return f"cluster.on {recipe.cluster.on} needs captions: {lack[text]}"
    select, dedup, weight = recipe.select, recipe.dedup, recipe.weight
    named = {select.cut_by: f"select.{select.cut_setting}", select.score_column: "select.by"}
    used = [(named.get(name, "select.prefer"), name) for name in select.columns]
    used = [] if select.null_policy == "keep" else used
    used += [("dedup.prefer", name) for name in score_of(dedup.prefer)] if dedup.epsilon is not None else []
    used += [("weight.by", weight.column)] if weight is not None and weight.column is not None else []
    for setting, name in used:
        if name in lost:
            return f"{setting} {name}: no row can have this score, for {lost[name]}; or take another score"
    # An epsilon found by itself came with method auto, perhaps before another method was chosen.
    captions = not (dedup.epsilon in (None, "auto") or dedup.across_captions or select.takes_what_is_there)
    if captions and "caption" in lack:
        return f"dedup.across_captions false needs captions: {lack['caption']}"
    if dedup.epsilon is not None and "image" in lack:
        if dedup.epsilon == "auto":
            return f"dedup.epsilon auto alters images to see how near copies are: {lack['image']}; or give it a number"
        if dedup.confirm == "thumbnail":
            return f"dedup.confirm thumbnail looks at images: {lack['image']}; or set it to none"
    if select.group_column == "label" and "label" in lack:
        return f"select.per label needs labels: {lack['label']}"
    for one in recipe.filter:
        if isinstance(one, ScoreFilter):
            if one.on_null != "keep" and (one.by in lost or (one.per == "label" and "label" in lack)):
                why = lost[one.by] if one.by in lost else lack["label"]
                return f"filter {str(one)!r}: no row can pass, for {why}"
        elif column := _never_true(recipe, one, lost):
            return f"filter {one[:200]!r}: no row can pass, for {column} is null in each: {lost[column]}"
    return None


def _lost_columns(recipe: Recipe, lack: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that are null in every row, and why."""
    lost = {name: why for role, why in lack.items() for name in _NULL_WITHOUT[role]}
    scores = score_columns(recipe)
    for family in families_of(recipe):
        whys = [lack[need] for need in family.row_needs if need in lack]
        whys += [lost[need] for need in family.needs if need in lost]
        if whys:
            lost |= {name: whys[0] for name in family.columns_made() if name in scores}
    return lost


def _never_true(recipe: Recipe, condition: str, lost: Mapping[str, str]) -> str | None:
    """Return a lost column for which a condition cannot be true: one of its parts joined by AND reads nothing else."""
    row = as_frame(table_columns(recipe).empty_table()).clear(1)
    for conjunct in _conjuncts(parsed(condition)):
        names = conjunct.meta.root_names()
        if names and all(name in lost for name in names):
            try:
                passes = row.select(conjunct.alias("passes"))["passes"]
            except pl.exceptions.PolarsError:  # the check of conditions says what is wrong
                continue
            if not passes.fill_null(False).any():
                return names[0]
    return None


def _conjuncts(expression: pl.Expr) -> list[pl.Expr]:
    """Return the parts of a condition that must all hold."""
    root = json.loads(expression.meta.serialize(format="json"))
    if root.get("BinaryExpr", {}).get("op") not in ("And", "LogicalAnd"):
        return [expression]
    return [inner for one in expression.meta.pop() for inner in _conjuncts(one)]
