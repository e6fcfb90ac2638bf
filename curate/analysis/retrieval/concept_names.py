"""Names for the concepts of a run: from its captions, from a vocabulary, or from its labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from curate.analysis.retrieval.ground import text_vectors
from curate.analysis.retrieval.retrieve import read_names
from curate.analysis.search import text_model
from curate.analysis.summary.tables import beside, part_names, require, table
from curate.clustering.store import load_centroids
from curate.errors import UsageError
from curate.hashing import hash_uids
from curate.io import storage
from curate.recipe import Recipe
from curate.recipe.loading import load_recipe
from curate.retrieval import naming
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["name_concepts"]

#: Captions that name a concept, and all concepts together: those of the smallest hashes.
PER_CONCEPT, IN_ALL, AT_LEAST = 64, 200_000, 4


def name_concepts(
    run: RunFolder, vocabulary: str | None = None, recipe: Recipe | None = None
) -> dict[int, str]:
    """Name the concepts of a run, keep the names in `concept_names.json`, and return them.

    vocabulary : a file with one text a line, which the model of the run compares with centroids; else n-grams of captions,
    else names of labels, else nothing. recipe : that of the run; the stored one by default, which may hide a secret and
    cannot be read then. Fingerprints of stages do not change. Raises UsageError for a vocabulary that
    cannot be used, RunError for a run without concepts.
    """
    require(run, run.final_concepts)
    recipe = load_recipe(run.recipe) if recipe is None else recipe
    rows = _sampled(run, recipe.seed)
    sizes = dict(rows.select("concept", "size").unique().iter_rows())
    if vocabulary is not None:
        by, terms = "vocabulary", _from_vocabulary(run, recipe, read_names(vocabulary), set(sizes))
    elif rows["caption"].is_not_null().any():
        by, terms = "captions", naming.caption_terms(_grouped(rows, "caption"))
    elif rows["label"].is_not_null().any():
        by, terms = "labels", naming.label_terms(_grouped(rows, "label"))
    else:
        by, terms = "nothing", {}
    names = naming.names_from_terms(terms, sizes)
    noted = {
        "concepts": run.fingerprint(run.final_concepts),
        "by": by,
        "names": {str(one): name for one, name in names.items()},
    }
    storage.write_record(run.concept_names, noted)
    return names


def _from_vocabulary(
    run: RunFolder, recipe: Recipe, texts: Sequence[str], filled: set[int]
) -> dict[int, list[str]]:
    """Return the terms of the concepts that have rows."""
    if recipe.cluster.on != "image":
        raise UsageError(
            f"a vocabulary names concepts of images; those of captions (cluster.on {recipe.cluster.on}) are named by captions"
        )
    clip = text_model(run, recipe.embed)
    centroids = load_centroids(run.final_concepts / "centroids.parquet").astype(np.float64)
    unique = list(dict.fromkeys(texts))
    places = sorted(filled)
    found = naming.vocabulary_terms(unique, text_vectors(clip, unique), centroids[places], clip.temperature)
    return {places[place]: terms for place, terms in found.items()}


def _sampled(run: RunFolder, seed: int) -> "pl.DataFrame":
    """Return some rows of every concept: concept, its size, caption and the name of the label."""
    import polars as pl

    parts = part_names(run, run.embeddings)
    names = run.class_names()
    k = storage.read_table(run.final_concepts / "concepts.parquet", ["concept"]).num_rows
    most = max(AT_LEAST, min(PER_CONCEPT, IN_ALL // max(k, 1)))
    kinds = pl.Schema(
        {
            "concept": pl.Int32(),
            "caption": pl.String(),
            "label": pl.String(),
            "uid": pl.String(),
            "code": pl.UInt64(),
        }
    )
    kept, sizes = pl.DataFrame(schema=kinds), pl.DataFrame(schema={"concept": pl.Int32, "size": pl.UInt32})
    for part in parts:
        rows = beside(run, part, ["caption", "label"], [], usable=True)
        rows = rows.hstack([table(run, run.final_assignments, part, ["concept"])["concept"]])
        sizes = pl.concat([sizes, rows.group_by("concept").agg(size=pl.len())])
        code = pl.Series("code", hash_uids(rows["uid"].to_list(), seed, "name"), pl.UInt64)
        rows = rows.with_columns(code, pl.col("label").replace(names)).select(list(kinds)).cast(kinds)
        kept = pl.concat([kept, rows]).sort("code", "uid").group_by("concept", maintain_order=True).head(most)
        kept = kept.select(list(kinds))
    return kept.sort("concept", "code", "uid").join(
        sizes.group_by("concept").agg(pl.sum("size")), on="concept"
    )


def _grouped(rows: "pl.DataFrame", column: str) -> dict[int, list[str]]:
    there = rows.drop_nulls(column).filter(rows.drop_nulls(column)[column].str.strip_chars() != "")
    return {
        int(concept): frame[column].to_list()
        for (concept,), frame in there.group_by("concept", maintain_order=True)
    }
