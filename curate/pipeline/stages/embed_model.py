"""The model of a run and the processes that decode for it: opened in this process, or by a holder of the engine."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from curate.embedding.hub_access import at_hand
from curate.embedding.jpeg import has_turbo
from curate.errors import ModelError
from curate.execution.context import Context, log
from curate.execution.engines.base import Place
from curate.recipe import Embed

if TYPE_CHECKING:
    from curate.embedding.clip import Clip
    from curate.embedding.decode_pool import DecodePool
    from curate.embedding.region_pool import RegionPool

__all__ = ["ModelTask", "check_model", "model_of", "open_clip", "open_model", "open_regions"]

Pool = TypeVar("Pool", bound="DecodePool")


@dataclass(frozen=True)
class ModelTask:
    """What opening the model of a recipe takes. decoders : None is as many as keep the model busy.

    in_flight_bytes : what encoded images and their decoding may take, each. It never decides about a row.
    """

    embed: Embed
    decoders: int | None
    in_flight_bytes: int


def model_of(context: Context) -> ModelTask:
    """Return the model of the recipe."""
    recipe = context.recipe
    decoders = None if recipe.workers == "auto" or context.engine.remote else context.engine.workers
    return ModelTask(recipe.embed, decoders, context.image_memory)


def check_model(context: Context) -> None:
    """Raise ModelError where a run that is still to embed cannot have its model: before any row is read.

    On a cluster the machines that embed have caches of their own, and say so themselves.
    """
    embed, run = context.recipe.embed, context.run
    if embed.own_vectors or context.engine.remote or run.marker(run.embeddings) is not None:
        return
    at_hand.check(embed.model, embed.pretrained)


@contextlib.contextmanager
def open_clip(model: ModelTask, place: Place) -> Iterator["Clip"]:
    """Give the model, loaded."""
    from curate.embedding import clip

    embed = model.embed
    yield clip.load(
        embed.model,
        embed.pretrained,
        device=_device(embed.device, place),
        precision=embed.precision,
        batch_size=embed.batch_size,
    )


@contextlib.contextmanager
def open_model(model: ModelTask, place: Place) -> Iterator[tuple["Clip", "DecodePool"]]:
    """Give the model, and the processes that decode for it."""
    from curate.embedding.decode_pool import DecodePool

    with open_clip(model, place) as clip, _pool(DecodePool, model, clip, place) as pool:
        yield clip, pool


@contextlib.contextmanager
def open_regions(context: Context, altered: str) -> Iterator[tuple["Clip", "RegionPool"]]:
    """Give the model of a run, and processes that make something of the boxes in pictures (`regions.REGIONS`) for it."""
    from curate.embedding.region_pool import RegionPool

    model = model_of(context)
    with open_clip(model, Place()) as clip, _pool(RegionPool, model, clip, Place(), altered=altered) as pool:
        yield clip, pool


def _pool(kind: type[Pool], model: ModelTask, clip: "Clip", place: Place, altered: str | None = None) -> Pool:
    from curate.embedding.batching import default_decode_workers

    if model.embed.decode == "turbo" and not has_turbo():
        log.info(
            "embed: simplejpeg is not installed, Pillow decodes instead (the same pixels; pip install 'curate[turbo]')"
        )
    return kind(
        clip.preprocess, workers=model.decoders or default_decode_workers(clip.device, place.cores), altered=altered,
        max_pixels=model.embed.max_pixels, memory_limit_bytes=model.embed.decode_memory,
        way=model.embed.decode, in_flight_bytes=model.in_flight_bytes,
    )  # fmt: skip


def _device(asked: str, place: Place) -> str:
    """Return the device for a model at a place; on a cluster a holder sees its own GPU alone.

    >>> [_device("auto", Place(gpu)) for gpu in (None, False, True)], _device("cuda:3", Place(gpu=True))
    (['auto', 'cpu', 'cuda'], 'cuda')
    """
    if place.gpu is None:
        return asked
    if asked.startswith("cuda") and not place.gpu:
        raise ModelError(f"embed.device {asked!r} cannot be used: the cluster has no GPU")
    if asked == "auto" or asked.startswith("cuda"):
        return "cuda" if place.gpu else "cpu"
    return asked
