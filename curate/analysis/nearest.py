"""The samples nearest to a vector: one pass over the embeddings, block by block, holding the best so far.

A float32 product proposes, float64 row products decide, and equal ones go by uid, so that the answer depends on the
vectors alone.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curate.analysis.summary.concepts import concept_table
from curate.analysis.summary.tables import beside, part_names, require, table
from curate.embedding.store import BATCH_ROWS, EmbeddingPart
from curate.errors import EmbeddingError, RunError, UsageError
from curate.io import storage
from curate.linalg import load_unit, margin, row_dots
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["COLUMNS", "allowed_rows", "check_limits", "nearest", "stored_vector", "told"]

#: What is told of a sample that was found, besides its similarity.
COLUMNS = ("uid", "concept", "keep", "reason", "caption", "label", "shard", "row")

Vector = npt.NDArray[np.float32]
#: (similarity, uid, part, position among the vectors of the part), the best first.
Hits = list[tuple[float, str, str, int]]


def nearest(
    run: RunFolder,
    query: Vector,
    *,
    top: int,
    on: str = "image",
    concept: int | None = None,
    kept: bool | None = None,
    without: str | None = None,
) -> "pl.DataFrame":
    """Return the `top` samples whose vectors have the largest cosine with `query`: similarity and `COLUMNS`.

    query : (d,) unit length. on : compare with the vectors of images or of captions (`text`). concept, kept : only
    samples of a concept, only kept or only dropped ones. without : a uid to leave out. `keep` and `reason` are null
    before there are decisions. Raises UsageError, EmbeddingError where the lengths differ, RunError.
    """
    require(run, run.embeddings)
    check_limits(run, concept, kept)
    hits: Hits = []
    for part in part_names(run, run.embeddings):
        vectors = EmbeddingPart(run.part(run.embeddings, part))
        if vectors.dim != len(query):
            raise EmbeddingError(
                f"the query has {len(query)} numbers, the vectors of {run.where} have {vectors.dim}"
            )
        if on == "text" and not vectors.has_text:
            raise UsageError(f"{run.where} has no vectors of captions; search the images")
        allowed = allowed_rows(run, part, len(vectors), concept, kept)
        hits = _best_of_part(vectors, part, on, query, allowed, hits, top, without)
    return told(run, hits)


def check_limits(run: RunFolder, concept: int | None, kept: bool | None) -> None:
    """Raise UsageError for a concept that is not there, RunError for decisions that are not."""
    if kept is not None:
        require(run, run.decisions)
    if concept is not None:
        require(run, run.final_concepts)
        known = concept_table(run)
        if known is None or concept not in known["concept"]:
            raise UsageError(
                f"--concept must be one of the {0 if known is None else len(known)} concepts, got {concept}"
            )


def allowed_rows(
    run: RunFolder, part: str, n: int, concept: int | None, kept: bool | None
) -> npt.NDArray[np.bool_]:
    """Return which of the `n` vectors of a part may be found, (n,); None of a concept, or of what is kept, allows all."""
    allowed = np.ones(n, np.bool_)
    if concept is not None:
        allowed &= (table(run, run.final_assignments, part, ["concept"])["concept"] == concept).to_numpy()
    if kept is not None:
        allowed &= beside(run, part, [], ["keep"], usable=True)["decided_keep"].to_numpy() == kept
    return allowed


def _best_of_part(
    vectors: EmbeddingPart,
    part: str,
    on: str,
    query: Vector,
    allowed: npt.NDArray[np.bool_],
    hits: Hits,
    top: int,
    without: str | None,
) -> Hits:
    """Return the best of `hits` and of the vectors of a part."""
    uids: list[str] = []
    slack = margin(len(query))
    for batch, start in enumerate(range(0, len(vectors), BATCH_ROWS)):
        rows = np.flatnonzero(vectors.present(on, batch) & allowed[start : start + BATCH_ROWS])
        if len(rows) == 0:
            continue
        block = load_unit(vectors.half(on, batch)[rows])
        proposed = block @ query
        # The one left out may be among the first.
        place = min(top + 1, len(rows))
        least = np.partition(proposed, len(rows) - place)[len(rows) - place]
        if len(hits) == top:
            least = max(least, hits[-1][0])
        chosen = np.flatnonzero(proposed >= least - slack)
        exact = row_dots(block[chosen], query[None, :])
        uids = uids or vectors.uids()
        found = [
            (float(s), uids[p], part, p) for s, p in zip(exact, (start + rows[chosen]).tolist(), strict=True)
        ]
        found = [hit for hit in found if hit[1] != without]
        hits = sorted([*hits, *found], key=lambda hit: (-hit[0], hit[1]))[:top]
    return hits


def told(run: RunFolder, hits: Hits) -> "pl.DataFrame":
    """Return what the tables say of the samples found, in their order."""
    import polars as pl

    kinds = {"similarity": pl.Float64, "uid": pl.String, "concept": pl.Int32, "keep": pl.Boolean}
    kinds |= dict.fromkeys(("reason", "caption", "label", "shard"), pl.String) | {"row": pl.Int64}
    by_part: dict[str, list[int]] = {}
    for _, _, part, position in hits:
        by_part.setdefault(part, []).append(position)
    known = {}
    for part, positions in by_part.items():
        for row in _rows(run, part, positions).to_dicts():
            known[part, row.pop("position")] = row
    rows = [{"similarity": similarity, **known[part, position]} for similarity, _, part, position in hits]
    frame = pl.DataFrame(rows, schema=kinds)
    return frame.with_columns(pl.col("label").replace(run.class_names()))


def _rows(run: RunFolder, part: str, positions: list[int]) -> "pl.DataFrame":
    import polars as pl

    frame = beside(run, part, ["caption", "label", "shard", "row"], ["keep", "reason"], usable=True)
    if len(frame) <= max(positions):
        raise RunError(f"{run.part(run.samples, part)}: not about the same rows as the embeddings; run again")
    if run.marker(run.final_concepts) is not None:
        frame = frame.hstack([table(run, run.final_assignments, part, ["concept"])["concept"]])
    names = {f"decided_{name}": name for name in ("keep", "reason")}
    frame = frame.with_row_index("position")[positions].rename(names, strict=False)
    missing = [pl.lit(None).alias(name) for name in COLUMNS if name not in frame.columns]
    return frame.with_columns(missing).select("position", *COLUMNS)


def stored_vector(run: RunFolder, uid: str, on: str = "image") -> Vector:
    """Return the vector of a sample, (d,) float32 of unit length; of a copy that of what it is a copy of.

    Raises UsageError where there is no such sample, or where it has no such vector.
    """
    import polars as pl

    require(run, run.embeddings)
    for part in part_names(run, run.embeddings):
        vectors = EmbeddingPart(run.part(run.embeddings, part))
        if on == "text" and not vectors.has_text:
            raise UsageError(f"{run.where} has no vectors of captions; search the images")
        path = run.part(run.embeddings, part)
        found = (
            pl.scan_ipc(storage.ensure_local(path), glob=False)
            .select("uid")
            .with_row_index("place")
            .filter(pl.col("uid") == uid)
            .collect()
        )
        if len(found):
            place = int(found["place"][0])
            if not vectors.present(on, place // BATCH_ROWS)[place % BATCH_ROWS]:
                raise UsageError(f"{uid} has no caption, so no vector of one")
            row: Vector = load_unit(vectors.take(on, np.array([place])))[0]
            return row
    for part in part_names(run, run.samples):
        rows = table(run, run.samples, part, ["uid", "outcome", "copy_of"]).filter(pl.col("uid") == uid)
        if len(rows) and rows["copy_of"][0] is not None and rows["copy_of"][0] != uid:
            return stored_vector(run, rows["copy_of"][0], on)
        if len(rows):
            raise UsageError(f"{uid} has no vector: its outcome is {rows['outcome'][0]}")
    raise UsageError(f"{run.where} has no sample with the uid {uid!r}")
