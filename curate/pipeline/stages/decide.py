"""The decision about every row read of one part, from its ranks and the rule that was found over all parts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from curate import schema
from curate.execution.context import eligible
from curate.io import storage
from curate.ordering.span import Cuts
from curate.pipeline.stages import representatives as stand_ins
from curate.runs.folder import RunFolder
from curate.selection.rows.overridden import judged
from curate.selection.rows.ranks import Ranked
from curate.selection.rules import Choice

__all__ = ["DecideTask", "decide_part"]


@dataclass(frozen=True)
class DecideTask:
    """One part to decide."""

    run: RunFolder
    part: str
    index: int
    ranked: Ranked
    choice: Choice
    control: Cuts
    stand_ins: tuple[Path, ...]
    cutoff: tuple[str, str]
    overrides: Path | None
    out: Path
    fingerprint: str


def decide_part(task: DecideTask) -> None:
    """Write the decision about every row read of a part."""
    samples = pl.DataFrame(storage.read_table(task.run.part(task.run.samples, task.part)))
    verdict = _verdicts(task)
    named = stand_ins.of_part(task.stand_ins, task.index)
    copied = pl.col("copy_of").is_not_null()
    broken = pl.col("outcome") != "ok"
    frame = (
        samples.select("uid", "occurrence", "shard", "row", "outcome", "copy_of")
        .with_columns(joined=pl.when(~broken & ~copied).then(pl.col("uid")))
        .join(verdict, left_on="joined", right_on="uid", how="left", maintain_order="left", validate="m:1")
        .with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32))
        .join(named, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(
            reason=pl.when(broken).then(pl.format("unusable:{}", pl.col("outcome")))
            .when(copied).then(pl.lit("exact_duplicate"))
            .when(pl.col("override") == "drop").then(pl.lit("dropped:override"))
            .when(pl.col("filter_reason").is_not_null()).then(pl.col("filter_reason"))
            .when(pl.col("duplicate_of").is_not_null()).then(pl.lit("near_duplicate"))
            .when(pl.col("chosen") & (pl.col("override") == "keep")).then(pl.lit("kept:override"))
            .when(pl.col("chosen") & pl.col("pinned")).then(pl.lit("pinned"))
            .when(pl.col("chosen") & pl.col("spared").is_not_null()).then(pl.lit("spared"))
            .when(pl.col("chosen")).then(pl.lit("kept"))
            .when(pl.col("cut_off")).then(pl.lit(f"cutoff:{task.cutoff[0]}"))
            .when(pl.col("noise")).then(pl.lit(f"cutoff:{task.cutoff[1]}"))
            .otherwise(pl.lit("over_budget")),
            duplicate_of=pl.when(~broken & copied).then(pl.coalesce("stand_in", "copy_of"))
            .when(pl.col("filter_reason") == "exact_duplicate").then(pl.coalesce("stand_in", "same_content_as"))
            .otherwise(pl.col("duplicate_of")),
        )
        .with_columns(keep=pl.col("reason").is_in(schema.KEPT_REASONS))
        .with_columns(weight=pl.col("keep").cast(pl.Float32), random_control=pl.col("random_control").fill_null(False))
    )  # fmt: skip
    table = frame.select(schema.DECISIONS.names).to_arrow().cast(schema.DECISIONS)
    storage.write_parquet(task.out, table, schema.DECISIONS, task.fingerprint)


def _verdicts(task: DecideTask) -> pl.DataFrame:
    """Return one row per usable sample of a part: concept, distance, rank, and what the rule says of it."""
    frame = eligible(task.run, task.part, ("filter",), final=True)
    frame = judged(task.run, task.part, frame, task.overrides).with_row_index("position")
    rows = task.ranked.part(task.index)
    noise = rows.get("cut", np.zeros(len(rows["key"]), np.bool_))
    chosen, probability, cut_off = (
        np.zeros(len(noise), np.bool_),
        np.zeros(len(noise)),
        np.zeros(len(noise), np.bool_),
    )
    competing = {name: values[~noise] for name, values in rows.items()}
    chosen[~noise], probability[~noise], cut_off[~noise] = task.choice.of(competing)
    said = pl.DataFrame(
        {
            "position": rows["position"],
            "rank": rows["rank"],
            "chosen": chosen,
            "cut_off": cut_off,
            "noise": noise,
            "inclusion_prob": probability.astype(np.float32),
            "random_control": task.control.holds(rows["control"], rows["tie"]),
        },
        schema_overrides={"position": pl.Int32, "rank": pl.Int32},
    ).with_columns(pl.col("inclusion_prob").fill_nan(None))
    return (
        frame.select(
            pl.col("uid", "concept", "distance", "filter_reason", "pinned", "same_content_as", "spared"),
            pl.col("duplicate_of", "override"),
            pl.col("position").cast(pl.Int32),
        )
        .join(said, on="position", how="left", maintain_order="left", validate="1:1")
        .with_columns(pl.col("chosen", "cut_off", "noise", "random_control").fill_null(False))
        .drop("position")
    )
