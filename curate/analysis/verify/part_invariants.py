"""What must hold inside one part: of each table, and between tables that have the same rows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from curate import schema
from curate.analysis.verify.stage_tables import TOLERANCE, Tables, read, same_uids, violation
from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.io import storage
from curate.scores.registry import families_of
from curate.selection.rows.overridden import OVERRIDDEN

__all__ = [
    "of_assignments",
    "of_decisions",
    "of_duplicates",
    "of_embeddings",
    "of_filter",
    "of_overrides",
    "of_samples",
    "of_scores",
    "same_rows",
]


def of_samples(tables: Tables, part: str, samples: pl.DataFrame) -> Iterator[str]:
    """Check the samples of a part: as many as the manifest says, each with a uid and an outcome."""
    path = tables.path(tables.run.samples, part)
    rows = {row["name"]: row["rows"] for row in tables.manifest["parts"]}
    if "read" not in tables.changed and rows.get(part, len(samples)) != len(samples):
        yield f"{path}: must have {rows[part]:,} rows, as the manifest says, got {len(samples):,}"
    outcome = samples["outcome"]
    known = outcome.is_in(list(schema.OUTCOMES))
    yield from violation(path, "outcome must be one of those in curate.schema.OUTCOMES", ~known, outcome)
    yield from violation(path, "uid must not be null", samples["uid"].is_null(), samples["row"])
    tables.outcomes.update(dict(outcome.value_counts().iter_rows()))
    tables.copies += int(((outcome == "ok") & samples["copy_of"].is_not_null()).sum())


def of_embeddings(tables: Tables, part: str, usable: pl.Series) -> Iterator[str]:
    """Check the vectors of a part: those of the usable samples, each of length 1 (and so finite)."""
    path = tables.path(tables.run.embeddings, part)
    if not tables.has(path):
        return
    vectors = EmbeddingPart(path)
    yield from same_uids(path, usable, pl.Series(vectors.uids(), dtype=pl.String))
    for column in ("image", "text") if vectors.has_text else ("image",):
        lengths = [np.empty(0)]
        for batch in range(-(-len(vectors) // BATCH_ROWS)):
            length = np.linalg.norm(vectors.half(column, batch).astype(np.float32), axis=1)
            lengths.append(np.where(vectors.present(column, batch), length, 1.0))
        length = np.concatenate(lengths)
        wrong = pl.Series(~(np.abs(length - 1) <= TOLERANCE))
        yield from violation(path, f"{column} vectors must have length 1", wrong, pl.Series(length))


def of_assignments(tables: Tables, part: str, usable: pl.Series) -> Iterator[str]:
    """Check the concepts of a part's samples, and count them."""
    yield from _assigned(tables, tables.path(tables.run.assignments, part), usable, tables.assigned)
    if tables.refitted and "select" in tables.current:
        yield from _assigned(tables, tables.path(tables.run.final_assignments, part), usable, tables.final)


def _assigned(tables: Tables, path: Path, usable: pl.Series, counts: npt.NDArray[np.int64]) -> Iterator[str]:
    """Check a table of assignments, and add its rows to those of each concept, (k,)."""
    k = len(counts)
    if not tables.has(path):
        return
    frame = read(path, schema.ASSIGNMENTS)
    yield from same_uids(path, usable, frame["uid"])
    concept, distance = frame["concept"], frame["distance"]
    inside = concept.is_between(0, k - 1).fill_null(False)
    yield from violation(path, f"concept must be from 0 to {k - 1}", ~inside, concept)
    near = distance.is_between(-TOLERANCE, 2 + TOLERANCE)
    yield from violation(path, "distance must be from 0 to 2", ~near, distance)
    counts += np.bincount(concept.filter(inside).to_numpy(), minlength=k)


def of_scores(tables: Tables, part: str, usable: pl.Series) -> Iterator[str]:
    """Check every family of scores that is about these samples."""
    behind = not tables.changed.isdisjoint(("read", "embed", "cluster"))
    for family in families_of(tables.recipe):
        folder = tables.run.scores(family.folder)
        path = tables.path(folder, part)
        older = behind and f"score/{family.folder}" not in tables.changed
        if older or tables.run.marker(folder) is None or not tables.has(path):
            continue
        frame = read(path, family.table())
        yield from same_uids(path, usable, frame["uid"])
        for name in (column for column in frame.columns if frame.schema[column].is_float()):
            wrong = frame[name].is_not_null() & ~frame[name].fill_null(0).is_finite()
            yield from violation(path, f"{name} must be finite or null", wrong, frame[name])


def of_filter(tables: Tables, part: str, usable: pl.Series, decisions: pl.DataFrame) -> Iterator[str]:
    """Check the verdicts of a part, and that what did not pass is not kept."""
    path = tables.path(tables.run.scores("filter"), part)
    if not tables.has(path):
        return
    frame = read(path, schema.FILTER)
    yield from same_uids(path, usable, frame["uid"])
    both = frame["pinned"] & frame["filter_reason"].is_not_null()
    yield from violation(path, "a pinned row must pass", both, frame["filter_reason"])
    if "select" in tables.current:
        failed = frame.filter(pl.col("filter_reason").is_not_null())["uid"]
        kept = decisions.filter(pl.col("keep") & (pl.col("reason") != "kept:override"))["uid"]
        rule = "a row that 3_scores/filter does not let pass must not be kept"
        yield from violation(
            tables.path(tables.run.decisions, part), rule, kept.is_in(failed.implode()), kept
        )


def of_duplicates(
    tables: Tables, part: str, usable: pl.Series, decisions: pl.DataFrame
) -> Iterator[str | pl.DataFrame]:
    """Check what comparing found in a part; yields also a frame of its rows and whom they point at."""
    path = tables.path(tables.run.duplicates, part)
    if not tables.has(path):
        return
    frame = read(path, schema.DUPLICATES)
    uid, other, similarity = frame["uid"], frame["duplicate_of"], frame["similarity"]
    yield from violation(path, "must hold usable rows of this part", ~uid.is_in(usable.implode()), uid)
    far = similarity.is_not_null() & ~similarity.fill_null(0).is_between(-1 - TOLERANCE, 1 + TOLERANCE)
    yield from violation(path, "similarity must be from -1 to 1", far, similarity)
    itself = (uid == other).fill_null(False)
    yield from violation(path, "a row must not be a duplicate of itself", itself, uid)
    yield frame.select("uid", "duplicate_of", "concept")
    if "select" in tables.current:
        near = decisions.filter(pl.col("reason") == "near_duplicate")["uid"]
        found = near.is_in(frame.filter(other.is_not_null())["uid"].implode())
        where = tables.path(tables.run.decisions, part)
        yield from violation(where, "a near_duplicate must be one in 4_duplicates", ~found, near)


def of_decisions(tables: Tables, part: str, frame: pl.DataFrame) -> Iterator[str]:
    """Check the decisions of a part alone, and count them."""
    path, k = tables.path(tables.run.decisions, part), len(tables.kept)
    keep, reason, weight, concept = frame["keep"], frame["reason"], frame["weight"], frame["concept"]
    kept = reason.is_in(list(schema.KEPT_REASONS))
    yield from violation(
        path,
        f"keep must be true for the reasons {', '.join(schema.KEPT_REASONS)} alone",
        keep != kept,
        reason,
    )
    yield from violation(
        path, "weight must be 0 where a row is not kept", ~keep & weight.ne_missing(0.0), weight
    )
    odd = keep & weight.is_not_null() & ~((weight >= 0) & weight.is_finite()).fill_null(True)
    yield from violation(path, "weight must be null or a number from 0", odd, weight)
    tables.rows += len(frame)
    tables.reasons.update(dict(reason.value_counts().iter_rows()))
    if not {"cluster", "select"} <= tables.current:
        return
    inside = concept.is_between(0, k - 1).fill_null(False)
    competes = kept | (reason == "over_budget") | reason.str.starts_with("cutoff:")
    wrong = ~inside & (concept.is_not_null() | competes)
    yield from violation(path, f"concept must be from 0 to {k - 1}", wrong, concept)
    tables.eligible += np.bincount(concept.filter(competes & inside).to_numpy(), minlength=k)
    tables.kept += np.bincount(concept.filter(keep & inside).to_numpy(), minlength=k)


def of_overrides(tables: Tables, part: str, samples: pl.DataFrame, decisions: pl.DataFrame) -> Iterator[str]:
    """Check that rows with a vector are as people decided, and no others say that people did."""
    path, where = tables.path(tables.run.decisions, part), tables.run.decisions / OVERRIDDEN
    alone = (samples["outcome"] == "ok") & samples["copy_of"].is_null()
    rows = decisions.select("uid", "reason").filter(alone)
    if where.exists() and tables.has(where):
        rows = rows.join(pl.DataFrame(storage.read_table(where)), on="uid", how="left", maintain_order="left")
    else:
        rows = rows.with_columns(pl.lit(None, pl.String).alias("decided"), pl.lit(False).alias("lifted"))
    for decided, reason in (("keep", "kept:override"), ("drop", "dropped:override")):
        wrong = rows["decided"].eq_missing(decided) != (rows["reason"] == reason)
        rule = f"{reason} must be the rows that people decided to {decided}"
        yield from violation(path, rule, wrong, rows["reason"])
    wrong = rows["lifted"].fill_null(False) & (rows["reason"] == "near_duplicate")
    yield from violation(path, "what people call no duplicate must not be near_duplicate", wrong, rows["uid"])


def same_rows(tables: Tables, part: str, samples: pl.DataFrame, decisions: pl.DataFrame) -> Iterator[str]:
    """Check that samples and decisions of a part are the same rows, and that reasons fit outcomes."""
    path = tables.path(tables.run.decisions, part)
    if len(samples) != len(decisions):
        yield f"{path}: must have the rows of 0_samples; {len(samples):,} are there, {len(decisions):,} are here"
        return
    for name in ("uid", "occurrence", "shard", "row"):
        wrong = samples[name].ne_missing(decisions[name])
        yield from violation(path, f"{name} must be that of 0_samples, in that order", wrong, decisions[name])
    reason, outcome = decisions["reason"], samples["outcome"]
    bad = outcome != "ok"
    wrong = (bad & (reason != "unusable:" + outcome)) | (~bad & reason.str.starts_with("unusable:"))
    yield from violation(path, "unusable rows must be those that are not ok in 0_samples", wrong, reason)
    copied = ~bad & samples["copy_of"].is_not_null()
    judged = tables.path(tables.run.scores("filter"), part)
    if "filter" not in tables.current or not tables.has(judged):
        wrong = copied & (reason != "exact_duplicate")
        yield from violation(path, "rows with copy_of in 0_samples must be exact_duplicate", wrong, reason)
        return
    of_content = read(judged, schema.FILTER).filter(pl.col("filter_reason") == "exact_duplicate")["uid"]
    by_people = reason.is_in(["kept:override", "dropped:override"])
    copied |= ~bad & samples["uid"].is_in(of_content.implode()) & ~by_people
    rule = "exact_duplicate must be the rows with copy_of in 0_samples, and those of 3_scores/filter"
    yield from violation(path, rule, copied != (reason == "exact_duplicate"), reason)
