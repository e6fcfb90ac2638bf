"""Family `color`: what a loss falls by when the model has seen the target set (CoLoR-Filter)."""

from typing import Any

import pyarrow as pa

from curate.execution.context import Context
from curate.recipe import Color, Recipe
from curate.scores.base import FamilyStage, Output, table
from curate.scores.color import color
from curate.scores.registry import folders_for, require_score, score_columns
from curate.scores.stored import read_part

__all__ = ["STAGE"]


def _table(settings: Color) -> pa.Schema:
    return table({"color": pa.float32()}, "color_status")


def _check(recipe: Recipe, settings: Color) -> None:
    require_score(recipe, settings.prior, "score: color.prior")
    require_score(recipe, settings.conditional, "score: color.conditional")


def _inputs(context: Context, settings: Color) -> list[object]:
    run = context.run
    return [run.fingerprint(run.scores(folder)) for folder in folders_for(context.recipe, settings.needs)]


def _compute(context: Context, settings: Color, output: Output) -> dict[str, Any]:
    known = score_columns(context.recipe)
    columns = {name: known[name] for name in settings.needs}
    scored = 0
    for part in context.parts:
        losses, status = read_part(context.run, part.name, columns)
        scored += int((status == "ok").sum())
        value = color(losses[settings.prior], losses[settings.conditional])
        output.write(part, {"color": value, "color_status": status.to_list()})
    return {"scored": scored, "prior": settings.prior, "conditional": settings.conditional}


STAGE = FamilyStage(table=_table, compute=_compute, inputs=_inputs, check=_check)
