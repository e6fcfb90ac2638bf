"""Over the parts of a run: how hard a sample is for small heads on the embeddings that never saw it.

Trained heads (mlp, linear) are scored out of fold over several seeds; given heads are one pass, by the text
vectors of class names (zeroshot) or by the centroids of the concepts (concepts).
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.clustering.store import load_centroids
from curate.errors import RunError, UsageError
from curate.execution.context import PROCESS_BASE, Context, log
from curate.process import cpu_count
from curate.scores.base import embedding_parts, require_memory
from curate.scores.heads.label_errors import errors_of
from curate.scores.heads.labels import (
    Labels,
    check_labels,
    columns,
    device_of,
    label_stats,
    read_labels,
)
from curate.scores.status import NONFINITE, OK, label_status
from curate.scores.tables.output import Output

if TYPE_CHECKING:
    from curate.embedding.clip import Clip
    from curate.recipe import Recipe
    from curate.scores.heads.batches import PartRows
    from curate.scores.heads.heads import Heads
    from curate.scores.heads.result import HeadScores
    from curate.scores.heads.training import HeadSettings

__all__ = ["check", "class_vectors", "compute", "head_settings", "model_bytes"]

#: What similarities of own vectors are multiplied by: the largest that CLIP learns.
OWN_SCALE = 100.0

#: Measured with n = 600,000 (360 with 10 seeds): sums, folds, columns; then what each seed adds.
_ROW_BYTES, _SEED_BYTES = 400, 4
_TORCH_BASE = 250_000_000


def check(recipe: "Recipe", settings: "Heads") -> None:
    """Raise UsageError for labels or a kind of heads that the recipe does not admit."""
    check_labels(recipe, settings)
    if settings.kind == "zeroshot" and recipe.embed.own_vectors:
        raise UsageError(
            "score: heads.kind zeroshot needs a model that reads class names, but the vectors are given "
            f"(embed.{'files' if recipe.embed.column is None else 'column'}); take kind linear, mlp or concepts"
        )
    clash = {"zeroshot": "concept", "concepts": "label"}.get(settings.kind)
    if settings.labels == clash:
        other = "label" if clash == "concept" else "concept"
        raise UsageError(f"score: heads.labels must be auto or {other} for kind {settings.kind}, got {clash}")


def compute(context: Context, settings: "Heads", output: Output) -> dict[str, Any]:
    """Write the tables of all parts."""
    if settings.needed:
        return _compute(context, settings, output)
    labels = read_labels(context, settings)
    status = label_status(labels.codes, settings.min_class or max(2, settings.folds))
    if (status == OK).any():
        try:
            _require_room(context, settings, labels)
        except RunError as error:
            log.info("%s; no row is scored, for heads are not required", error)
            status = np.full(len(labels), NONFINITE)
        else:
            return _compute(context, settings, output) | {"warnings": []}
    output.write_all(dict.fromkeys(settings.columns_made(), [None] * len(labels)), status)
    return {"kind": settings.kind, "scored": 0, "idle": True}


def _require_room(context: Context, settings: "Heads", labels: Labels) -> None:
    """Raise RunError where memory does not hold what training takes."""
    require_memory(context, "score: heads", len(labels), _bytes_a_row(settings))
    if settings.kind in ("mlp", "linear"):
        chosen = head_settings(context, settings)
        classes = _large_classes(labels, chosen.smallest_class)
        dim = embedding_parts(context)[0].dim
        _require_models(context, model_bytes(chosen, dim, classes, len(labels)), classes)


def _compute(context: Context, settings: "Heads", output: Output) -> dict[str, Any]:
    from curate.scores.heads.batches import PartRows

    parts = embedding_parts(context)
    row_bytes = _bytes_a_row(settings)
    require_memory(context, "score: heads", sum(map(len, parts)), row_bytes)
    labels = read_labels(context, settings)
    context.engine.close()  # idle workers would hold memory that training can use
    on = context.recipe.cluster.on if settings.kind == "concepts" else "image"
    rows = PartRows(parts, on)
    trained = settings.kind in ("mlp", "linear")
    scores = (_train if trained else _given)(context, settings, rows, labels)
    output.write_all(columns(scores), scores.status)
    known = label_stats(scores, labels, settings, trained=trained)
    known["warnings"] += _unused_names(settings, labels)
    if trained and settings.folds and labels.source == "label" and len(scores.classes):
        known["label_errors"] = errors_of(scores, labels).as_facts()
    if scores.calibration:
        known["calibration"] = dict(scores.calibration)
    return {"kind": settings.kind, **known}


# --- trained heads ----------------------------------------------------------------------------------


def _train(context: Context, settings: "Heads", rows: "PartRows", labels: Labels) -> "HeadScores":
    from curate.scores.heads.batches import BLOCK
    from curate.scores.heads.training import train_heads

    chosen = head_settings(context, settings)
    classes = _large_classes(labels, chosen.smallest_class)
    models = model_bytes(chosen, rows.dim, classes, len(rows))
    _require_models(context, models, classes)
    spent = PROCESS_BASE + _TORCH_BASE + models + 5 * BLOCK * rows.dim * 4
    spent += len(rows) * _bytes_a_row(settings)
    log.info(
        "score: heads: %s seeds of %s heads on %s samples of %s classes",
        settings.seeds, settings.kind, f"{len(rows):,}", f"{classes:,}",
    )  # fmt: skip
    room = max(0, context.recipe.memory - spent)
    return train_heads(rows, rows.uids(), labels, head_settings(context, settings, memory=room))


def _bytes_a_row(settings: "Heads") -> int:
    """Return the bytes that training keeps of each row."""
    from curate.scores.heads.course import course_row_bytes

    more = course_row_bytes(settings.dynamics, settings.window, settings.seeds)
    return _ROW_BYTES + _SEED_BYTES * settings.seeds + more


def head_settings(context: Context, settings: "Heads", *, memory: int = 0) -> "HeadSettings":
    """Return the settings of `train_heads`; memory : bytes that the prepared rows may take."""
    from curate.scores.heads.training import HeadSettings

    return HeadSettings(
        kind="linear" if settings.kind == "linear" else "mlp",
        hidden=None if settings.hidden == "auto" else settings.hidden,
        n_seeds=settings.seeds,
        epochs=settings.epochs,
        cross_fit=settings.folds,
        score_epochs=settings.score_epochs,
        batch=None if settings.batch == "auto" else settings.batch,
        rate=settings.rate,
        momentum=settings.momentum,
        normalise=settings.normalise,
        min_class=settings.min_class,
        seed=context.recipe.seed,
        first_seed=settings.first_seed,
        device=device_of(context.recipe.embed.device, "embed.device"),
        workers=context.engine.here,
        memory=memory,
        dynamics=settings.dynamics,
        window=settings.window,
    )


def _large_classes(labels: Labels, smallest: int) -> int:
    """Return the number of classes that heads are trained on."""
    return int((np.bincount(labels.codes[labels.codes >= 0]) >= smallest).sum())


def model_bytes(settings: "HeadSettings", dim: int, n_classes: int, n: int) -> int:
    """Return the bytes that weights, velocities and one minibatch of all models take, and looks at batches."""
    from curate.scores.heads.evaluation import EVALUATION_CELLS
    from curate.scores.heads.factory import blocks_are_wide

    folds, hidden = max(1, settings.cross_fit), settings.hidden_for(n)
    models, batch = settings.n_seeds * folds, settings.batch_for(n)
    if settings.kind == "mlp":
        weights, scratch = models * hidden * (dim + n_classes), settings.n_seeds * batch * (dim + 2 * hidden)
    else:
        twice = 2 if blocks_are_wide(settings.cross_fit, n_classes) else 1
        weights, scratch = twice * models * dim * n_classes, 2 * models * batch * n_classes
    evaluation = 5 * max(256 * n_classes, EVALUATION_CELLS) * (settings.workers or cpu_count())
    copies = 2 if "tdds" in settings.dynamics else 1  # of the epoch before
    return copies * 8 * weights + 4 * scratch + 4 * evaluation


def _require_models(context: Context, needed: int, classes: int) -> None:
    room = context.recipe.memory * 3 // 4
    if needed > room:
        raise RunError(
            f"score: heads of {classes:,} classes need {needed / 1e9:.1f} GB, memory "
            f"{context.recipe.memory / 1e9:g}GB leaves them {room / 1e9:.1f} GB: raise memory, set heads.min_class "
            "higher, or take fewer heads.seeds or heads.folds"
        )


# --- given heads ------------------------------------------------------------------------------------


def _given(context: Context, settings: "Heads", rows: "PartRows", labels: Labels) -> "HeadScores":
    _require_models(
        context, _given_bytes(rows.dim, len(labels.names), context.engine.here), len(labels.names)
    )
    return (_by_names if settings.kind == "zeroshot" else _by_concepts)(context, settings, rows, labels)


def _given_bytes(dim: int, n_classes: int, workers: int) -> int:
    """Return the bytes that class vectors (on the way in float64) and looks at batches take."""
    from curate.scores.heads.evaluation import EVALUATION_CELLS

    return 24 * dim * n_classes + 20 * max(256 * n_classes, EVALUATION_CELLS) * workers


def _by_names(context: Context, settings: "Heads", rows: "PartRows", labels: Labels) -> "HeadScores":
    from curate.scores.heads.zeroshot import zero_shot

    classes = sorted(str(name) for name in labels.names)
    clip = _clip(context.recipe, device=context.recipe.embed.device)
    prompts = [settings.class_names.get(name, name) for name in classes]
    return zero_shot(
        rows, rows.uids(), labels, classes, class_vectors(clip, prompts, settings.templates),
        scale=1 / clip.temperature, device=clip.device, workers=context.engine.here,
    )  # fmt: skip


def _by_concepts(context: Context, settings: "Heads", rows: "PartRows", labels: Labels) -> "HeadScores":
    from curate.scores.heads.zeroshot import score_concepts

    embed = context.recipe.embed
    centroids = load_centroids(context.run.concepts / "centroids.parquet")
    centroids = centroids.reshape(len(centroids), rows.dim)  # of no sample there is none, of any length
    scale = OWN_SCALE if embed.own_vectors else 1 / _clip(context.recipe, device="cpu").temperature
    return score_concepts(
        rows, rows.uids(), labels.codes.astype(np.int64),
        centroids,
        scale=scale, device=device_of(embed.device, "embed.device"), workers=context.engine.here,
    )  # fmt: skip


def _clip(recipe: "Recipe", *, device: str) -> "Clip":
    from curate.embedding import clip

    embed = recipe.embed
    precision = embed.precision if device == embed.device else "float32"
    return clip.load(
        embed.model, embed.pretrained, device=device, precision=precision, batch_size=embed.batch_size
    )


def class_vectors(clip: "Clip", names: list[str], templates: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """Return the unit vector of each class, (C, d): the mean of its prompts' unit vectors, scaled to length 1.

    templates : each with `{}` where the name goes (Radford et al. 2021, arXiv:2103.00020).
    """
    from curate.linalg import unit_rows

    total = np.zeros((len(names), clip.dim))
    for template in templates:
        total += clip.encode_texts([template.replace("{}", name) for name in names])
    return unit_rows(total)[0]


def _unused_names(settings: "Heads", labels: Labels) -> list[str]:
    """Return a warning about names for labels that no sample has: a misspelt one would go unseen."""
    unused = sorted(set(settings.class_names) - {str(name) for name in labels.names})
    if settings.kind != "zeroshot" or not unused:
        return []
    some = ", ".join(map(repr, unused[:5])) + (", ..." if len(unused) > 5 else "")
    return [f"class_names names {len(unused)} labels that no sample has: {some}"]
