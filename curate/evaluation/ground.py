"""What all models of an evaluation share: the pool, the rows that judge, and the judge of both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.errors import UsageError
from curate.evaluation import held_out, rows
from curate.evaluation.judges import Judge, LabelJudge, PairJudge, network, perceptron
from curate.evaluation.request import Request
from curate.evaluation.rows import Mask, Rows
from curate.execution.context import Context
from curate.pipeline.stages.score import SOURCES
from curate.recipe import Recipe
from curate.scores.heads.labels import device_of
from curate.scores.pixels.parts import has_images

__all__ = ["Ground", "check_judge", "make_ground"]

#: Images of up to this many pixels a side are small: a network is trained on them in a minute.
SMALL = 64
#: Sides that images are brought to: the first that is not smaller, else the last.
SIDES = (28, 32)
#: How near a held-out row may be to one of the pool, where the run's dedup says nothing.
NEAR = 0.002
#: Fewer held-out rows than this judge nothing.
LEAST_HELD_OUT = 20

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ground:
    """The rows of a run, which of them are out of the pool, and what is judged by them.

    out : (n,), all that left the pool, near-copies of it too. pool, held : places in `rows` of what is trained on and
    of what judges, ascending. judge : names rows by their places in `pool`. facts : of what is held out.
    """

    rows: Rows
    kind: str
    out: Mask
    pool: Places
    held: Places
    judge: Judge
    facts: dict[str, Any]
    notes: list[str]


def check_judge(recipe: Recipe, request: Request) -> None:
    """Raise UsageError for a judge that a run can have no rows for, ModelError for a device that there is not."""
    device_of(request.device, "--device")
    if request.judge != "pixels" or not recipe.embed.own_vectors:
        return
    for source in recipe.source:
        if not has_images(recipe, source, SOURCES):
            raise UsageError(
                f"--judge pixels needs images, and {source.name} has no column of images: name it with source.image, "
                "or take --judge heads"
            )


def _kind(context: Context, here: Rows, judge: str) -> str:
    """Return which judge suits the rows; raises UsageError where the rows have not what it needs."""
    labelled = len(np.unique(here.labels[here.labels >= 0]))
    if judge == "auto":
        small = here.edge is not None and here.edge <= SMALL and not context.recipe.embed.own_vectors
        judge = ("pixels" if small else "heads") if labelled > 1 else "pairs"
        if judge == "pairs" and not here.captioned.any():
            raise UsageError(
                "evaluate needs labels of two classes, or captions with vectors, and the usable rows have neither: name the "
                "column with source.label or source.caption"
            )
    if judge == "pairs" and not here.captioned.any():
        raise UsageError(
            "--judge pairs needs captions with vectors, and no usable row has one; take --judge heads"
        )
    if judge != "pairs" and labelled < 2:
        raise UsageError(
            f"--judge {judge} needs labels of at least two classes, the usable rows have {labelled}: name the column with "
            "source.label, or take --judge pairs"
        )
    return judge


def make_ground(context: Context, request: Request) -> Ground:
    """Return the pool, the rows that judge, and the judge; raises UsageError where there is too little of something."""
    here = rows.read_rows(context)
    kind = _kind(context, here, request.judge)
    able = here.captioned if kind == "pairs" else here.labels >= 0
    out = _held_out(context, request, here, able)
    vectors = [
        rows.read_vectors(context, one) for one in (("image", "text") if kind == "pairs" else ("image",))
    ]
    epsilon = _epsilon(context, request)
    held, pool = np.flatnonzero(out & able), np.flatnonzero(~out)
    leaks = held_out.near_copies([one[held] for one in vectors], [one[pool] for one in vectors], epsilon)
    facts = {"how": request.held_out, "rows": len(held), "near_copies": int(leaks.sum()), "epsilon": epsilon}
    notes = _notes(facts, int((~able[pool]).sum()))
    held, pool = held[~leaks], pool[able[pool]]
    _require_enough(here, kind, held, pool, facts, request)
    if kind == "pixels":
        judge, held, pool, more = _pixels(context, request, here, held, pool)
        notes += more
    else:
        judge = _on_vectors(request, here, vectors, held, pool)
    return Ground(here, kind, out, pool, held, judge, {**facts, "judging": len(held)}, notes)


def _held_out(context: Context, request: Request, here: Rows, able: Mask) -> Mask:
    """Return what leaves the pool, (n,). Pinned rows never do."""
    if request.split is not None:
        return rows.rows_of_split(context, here, request.split) & ~here.pinned
    free = able & ~here.pinned
    out = np.zeros(len(here), np.bool_)
    count = round(float(request.holdout or 0) * int(free.sum()))
    out[held_out.drawn(here.uids, free, count, request.seed, "evaluate", "holdout")] = True
    return out


def _epsilon(context: Context, request: Request) -> float:
    """Return from which similarity on (1 - epsilon) a held-out row is a copy: as asked, else as the run's dedup."""
    if request.near is not None:
        return request.near
    return float(context.facts(context.run.duplicates).get("epsilon") or NEAR)


def _notes(facts: dict[str, Any], lacking: int) -> list[str]:
    found = []
    if facts["near_copies"]:
        found.append(
            f"leaks: {facts['near_copies']:,} of {facts['rows']:,} held-out rows have a near-copy in the pool (similarity "
            f"above 1 - {facts['epsilon']:g}) and judge nothing; --near says how near is too near"
        )
    if lacking:
        found.append(
            f"{lacking:,} rows of the pool have nothing to train on (no label, or no caption) and are left out"
        )
    return found


def _require_enough(
    here: Rows, kind: str, held: Places, pool: Places, facts: dict[str, Any], request: Request
) -> None:
    """Raise UsageError where too few rows judge, or a share leaves fewer rows than classes."""
    if len(held) < LEAST_HELD_OUT:
        raise UsageError(
            f"{len(held):,} held-out rows judge, at least {LEAST_HELD_OUT} are needed ({request.held_out}: {facts['rows']:,} "
            f"rows, {facts['near_copies']:,} of them near-copies of the pool at epsilon {facts['epsilon']:g}): hold out "
            "more, or set a smaller --near"
        )
    least, what = (2, "pairs") if kind == "pairs" else (len(np.unique(here.labels[pool])), "classes")
    if kind != "pairs" and least < 2:
        raise UsageError(
            f"the pool without {request.held_out} has rows of one class alone; hold out other rows"
        )
    for share in request.keep:
        if (n := round(share * len(pool))) < least:
            raise UsageError(
                f"--keep {share:g} leaves {n:,} of {len(pool):,} rows, fewer than there are {what} ({least:,}); keep more"
            )


# --- judges ----------------------------------------------------------------------------------------------------


def _on_vectors(
    request: Request, here: Rows, vectors: list[rows.Vectors], held: Places, pool: Places
) -> Judge:
    """Return the judge of labels, or of pairs where there are vectors of captions too."""
    device = device_of(request.device, "--device")
    image = vectors[0]
    if len(vectors) > 1:
        text = vectors[1]
        return PairJudge(image[pool], text[pool], image[held], text[held], request.steps, device)
    centre, spread = image[pool].mean(axis=0), image[pool].std(axis=0) + 1e-6
    train, test = (torch.from_numpy((image[some] - centre) / spread).to(device) for some in (pool, held))
    labels = here.labels[pool], here.labels[held]
    return LabelJudge(perceptron, train, test, *labels, len(here.names), steps=request.steps)


def _pixels(
    context: Context, request: Request, here: Rows, held: Places, pool: Places
) -> tuple[Judge, Places, Places, list[str]]:
    """Return the judge on images, with what of both can be decoded."""
    device = device_of(request.device, "--device")
    wanted = np.zeros(len(here), np.bool_)
    wanted[pool] = wanted[held] = True
    side = next((one for one in SIDES if (here.edge or SMALL) <= one), SIDES[-1])
    images, decoded = rows.read_images(context, wanted, side, SOURCES)
    place = np.cumsum(wanted) - 1
    lost = int((~decoded).sum())
    held, pool = held[decoded[place[held]]], pool[decoded[place[pool]]]
    if len(held) < LEAST_HELD_OUT or not len(pool):
        raise UsageError(
            f"--judge pixels: {lost:,} of {len(decoded):,} images cannot be decoded; take --judge heads"
        )
    train, test = (torch.from_numpy(images[place[some]]).to(device) for some in (pool, held))
    labels = here.labels[pool], here.labels[held]
    judge = LabelJudge(
        network, train, test, *labels, len(here.names), _standardised(images[place[pool]]), request.steps
    )
    return judge, held, pool, [f"{lost:,} images cannot be decoded, and are left out"] if lost else []


def _standardised(images: rows.Images) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what makes float inputs from images: each colour with mean 0 and deviation 1 over these."""
    colours = images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1)
    counts = np.stack([np.bincount(colour, minlength=256) for colour in colours])
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ np.arange(256.0)
    spread = np.sqrt(np.maximum(shares @ np.arange(256.0) ** 2 - mean**2, 1.0))
    scale, shift = (
        torch.from_numpy(one.astype(np.float32))[:, None, None] for one in (1 / spread, mean / spread)
    )

    def prepared(batch: torch.Tensor) -> torch.Tensor:
        rows = batch.float() * scale.to(batch.device) - shift.to(batch.device)
        return rows.contiguous(memory_format=torch.channels_last)

    return prepared
