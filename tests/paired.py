"""Pairs of vectors of images and captions, what `pair` says of them by definition, and a run that has embedded them."""

import numpy as np
import polars as pl
import pyarrow as pa
from builders import recipe_values

from curate import schema
from curate.embedding.store import Vectors, write_part
from curate.execution.context import Context, Part
from curate.execution.engines.local import LocalEngine
from curate.hashing import digest
from curate.io import storage
from curate.linalg import load_unit
from curate.recipe.loading import parse_recipe
from curate.runs.folder import RunFolder
from curate.sources.base import Columns, Shard

SETTINGS = {"batch": 64, "repeats": 3, "temperature": 0.05}


def pairs(n, *, dim=24, seed=0, without=0, captions=None, images=None):
    """Pairs whose captions are noisy images; the last ones have no caption; hashes are of given texts."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((n, dim)) + 1
    text = image + rng.standard_normal((n, dim))
    half = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16) for x in (image, text)]
    captions = [f"c{i}" for i in range(n)] if captions is None else captions
    return pl.DataFrame(
        {
            "uid": [f"u{i:05d}" for i in range(n)],
            "has_text": [i < n - without for i in range(n)],
            "caption_hash": [digest(c) if i < n - without else None for i, c in enumerate(captions)],
            "image_hash": [digest(i) for i in (images or [f"i{i}" for i in range(n)])],
            "place": range(n),
        },
        schema_overrides={"uid": pl.String, "caption_hash": pl.String, "image_hash": pl.String},
    ), *half


def embedded(folder, data, *, order=None, shards=3, workers=1, text=True, **settings):
    """Return the context of a run whose embeddings are there, its rows in some order over some shards."""
    frame, image, words = data
    values = recipe_values("none.parquet", folder, score=[{"pair": SETTINGS | settings}], workers=workers)
    run, parts = RunFolder(folder), []
    order = np.arange(len(frame)) if order is None else order
    for index, rows in enumerate(np.array_split(order, shards)):
        some = frame[rows.tolist()]
        name, fingerprint = f"p{index}", f"made-{index}"
        parts.append(
            Part(name, index, Shard(name, name, "train", 0, "v"), Columns(), 0, len(rows), 0, fingerprint)
        )
        given = Vectors(some["uid"].to_list(), image[rows], words[rows], some["has_text"].to_numpy())
        write_part(
            run.part(run.embeddings, name),
            [given] if len(rows) else [],
            image.shape[1],
            fingerprint,
            text=text,
        )
        blank = {field.name: pa.nulls(len(rows), field.type) for field in schema.SAMPLES}
        said = {name: some[name].to_list() for name in ("uid", "caption_hash", "image_hash")}
        said["outcome"] = ["ok"] * len(rows)
        storage.write_parquet(
            run.part(run.samples, name),
            pa.table(blank | said, schema=schema.SAMPLES),
            schema.SAMPLES,
            fingerprint,
        )
    run.mark(run.embeddings, "embedded", {})
    return Context(parse_recipe(values), run, LocalEngine(workers), tuple(parts))


def by_hand(data, temperature, masked=True):
    """All columns for one batch of all rows, from the full matrix."""
    frame, image, words = data
    image, words = load_unit(image).astype(float), load_unit(words).astype(float)
    logits = image @ words.T / temperature
    caption, picture = frame["caption_hash"].to_numpy(), frame["image_hash"].to_numpy()
    alike = (caption[:, None] == caption[None]) | (picture[:, None] == picture[None])
    allowed = ~alike | np.eye(len(frame), dtype=bool) if masked else np.ones_like(alike)
    out = {}
    for name, values in (("i2t", logits), ("t2i", logits.T)):
        p = np.where(allowed, np.exp(values - values.max()), 0.0)
        p /= p.sum(axis=1, keepdims=True)
        out[f"nce_{name}"] = -np.log(np.diag(p))
        out[f"pair_el2n_{name}"] = np.linalg.norm(p - np.eye(len(p)), axis=1)
        if name == "i2t":
            out["pair_grand"] = np.linalg.norm(p @ words - words, axis=1) / temperature
    out["nce"] = (out["nce_i2t"] + out["nce_t2i"]) / 2
    out["nce_norm"] = out["nce"] - np.log(allowed.sum(axis=1))
    return out | {f"neg_clip_loss{end}": -temperature * out[f"nce{end}"] for end in ("", "_norm")}
