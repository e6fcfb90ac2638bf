"""Kind `full`: an open_clip model, from a checkpoint or from a JSON configuration, trained on pictures and captions."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.embedding import clip
from curate.embedding.decode import Preprocess
from curate.embedding.torchvision_guard import import_open_clip
from curate.errors import ModelError, RunError, UsageError
from curate.execution.context import Progress
from curate.io import checksums, storage
from curate.pipeline.stages.score import SOURCES
from curate.schema import PASSING
from curate.scores.dfn.stored import MODEL
from curate.scores.pixels.parts import decoded_images
from curate.training.augment import augmented
from curate.training.batches import dealt, epoch_batches
from curate.training.filter_recipe import FilterRecipe
from curate.training.loop import Course, Curve, autocast, fit
from curate.training.losses import best_scale_loss, info_nce
from curate.training.pairs import Pairs

__all__ = ["FullModel", "images_of", "load_model", "require_model", "train_full", "write_model"]

CONFIG = "open_clip_config.json"

Images = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class FullModel(torch.nn.Module):
    """An open_clip model with what training needs beside it. new : with random weights, so that norms of batches learn too."""

    def __init__(
        self, network: torch.nn.Module, tokenizer: Callable[[list[str]], torch.Tensor], config: dict[str, Any],
        preprocess: Preprocess, *, new: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.network: Any = network
        self.tokenizer, self.config, self.new = tokenizer, config, new
        self.preprocess = preprocess

    @property
    def log_scale(self) -> torch.Tensor:
        """The logarithm of what cosines are multiplied by."""
        scale: torch.Tensor = self.network.logit_scale
        return scale

    def train(self, mode: bool = True) -> "FullModel":
        """Set the mode; norms over batches stay as they were trained, because a small set would spoil them."""
        super().train(mode)
        if mode and not self.new:
            for module in self.network.modules():
                if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, pictures: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return unit vectors of pictures (n, 3, h, w) in 0 to 1, and of tokens (n, context)."""
        mean, std = (
            torch.tensor(values, device=pictures.device).view(1, 3, 1, 1)
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        image = self.network.encode_image((pictures - mean) / std, normalize=True)
        return image.float(), self.network.encode_text(tokens, normalize=True).float()


def require_model(recipe: FilterRecipe) -> None:
    """Raise UsageError for a model that is not there, before anything is embedded."""
    name = str(recipe.model)
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise UsageError(f"model: {name} is not there; give the JSON configuration of an open_clip model")
        held = storage.read_json(Path(name))
        if not isinstance(held, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(held):
            raise UsageError(
                f"model: {name} is no JSON configuration of an open_clip model (embed_dim, vision_cfg, text_cfg)"
            )
    elif recipe.model not in (None, "tiny") and not name.startswith(("local-dir:", "hf-hub:")):
        known = import_open_clip().list_models()
        if recipe.pretrained is None and name not in known:
            raise UsageError(
                f"model: open_clip knows no {name!r}; give tiny, one of its names, or a JSON configuration"
            )


def load_model(recipe: FilterRecipe) -> FullModel:
    """Return the model that training begins with: of a filter, of open_clip, or new from a JSON configuration."""
    open_clip = import_open_clip()
    name, pretrained = recipe.model, recipe.pretrained
    if recipe.start is not None:
        name, pretrained = f"local-dir:{recipe.start}", None
    name = str(name)
    if name.endswith(".json"):
        open_clip.add_model_config(Path(name))
        name = Path(name).stem
    if name == "tiny" or pretrained is not None or name.startswith(("local-dir:", "hf-hub:")):
        if name == "tiny" and recipe.model != "tiny":  # the shipped architecture, as a JSON configuration
            return _new(open_clip, name, recipe)
        loaded = clip.load(name, pretrained, device="cpu", precision="float32")
        network, tokenizer = loaded.for_training()
        return FullModel(network, tokenizer, _config(open_clip, name), loaded.preprocess, new=False)
    return _new(open_clip, name, recipe)


def _new(open_clip: Any, name: str, recipe: FilterRecipe) -> FullModel:  # noqa: ANN401  (a module)
    """Return a model with random weights, those of the seed."""
    torch.manual_seed(recipe.seed)
    try:
        with clip.quiet():
            network = open_clip.create_model(name)
            tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # whatever open_clip or the hub of the tokenizer raise
        raise ModelError(f"model: {name} cannot be made: {' '.join(str(error).split())[:300]}") from error
    preprocess = clip.preprocess_of(network)
    return FullModel(network.float(), tokenizer, _config(open_clip, name), preprocess, new=True)


def _config(open_clip: Any, name: str) -> dict[str, Any]:  # noqa: ANN401
    return dict(open_clip.get_model_config(name))


@dataclass(frozen=True)
class _Rows:
    """What a step reads: pictures, the tokens of each wording, and how each row's picture is altered."""

    images: Images
    tokens: list[torch.Tensor]
    how: list[Any]


def train_full(
    model: FullModel, pairs: Pairs, images: Images, decoded: Flags, recipe: FilterRecipe, course: Course, progress: Progress,
) -> Curve:  # fmt: skip
    """Train a model in place and return its curve. images : (n, h, w, 3); decoded : (n,) which of them there are."""
    model.to(course.device)
    held = pairs.held_out(recipe.validation, recipe.seed, 0) & decoded
    rows = np.flatnonzero(~held & decoded)
    names = [pairs.uids[row] for row in rows.tolist()]
    near = pairs.image[rows], pairs.text[rows]
    sources = [pairs.sources[row] for row in rows.tolist()]
    size = recipe.value("batch")
    given = _rows(model, pairs, images, recipe)

    def batches_of(epoch: int) -> list[Ints]:
        if recipe.mix:
            shares = {name: one.share for name, one in recipe.mix.items()}
            return [rows[some] for some in dealt(sources, shares, size, recipe.seed, epoch)]
        found = epoch_batches(names, size, recipe.seed, epoch, hard=recipe.hard, image=near[0], text=near[1])
        return [rows[some] for some in found]

    def loss(batch: Ints, key: int) -> torch.Tensor:
        model.train()
        draw = np.random.Generator(np.random.Philox(key=key))
        return _loss(model, given, batch, course, draw)

    @torch.no_grad()
    def validate() -> float:
        model.eval()
        places = np.flatnonzero(held)
        some = np.array_split(places, -(-len(places) // size))
        return float(np.mean([best_scale_loss(*_vectors(model, given, part, course, None)) for part in some]))

    return fit(model, loss, batches_of, course, validate=validate if held.any() else None, progress=progress)


def _rows(model: FullModel, pairs: Pairs, images: Images, recipe: FilterRecipe) -> _Rows:
    """Tokenize the captions, each wording of them, once."""
    tokens = []
    for start in range(0, len(pairs), 1024):
        captions = pairs.captions[start : start + 1024]
        wordings = [_wordings(caption, recipe) for caption in captions]
        flat = model.tokenizer([one for some in wordings for one in some])
        tokens += list(torch.split(flat, [len(some) for some in wordings]))
    mix = {name: one.augment or recipe.augment for name, one in recipe.mix.items()}
    how = [mix.get(source, recipe.augment) for source in pairs.sources]
    return _Rows(images, tokens, how)


def _wordings(caption: str | None, recipe: FilterRecipe) -> list[str]:
    """Return the wordings of a caption: its lines where that is asked for."""
    text = caption or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()] if recipe.wordings else []
    return lines or [text]


def _loss(
    model: FullModel, given: _Rows, batch: Ints, course: Course, draw: np.random.Generator
) -> torch.Tensor:
    """Return the loss of a batch, its pictures altered and its wordings drawn."""
    return info_nce(*_vectors(model, given, batch, course, draw), model.log_scale.float().exp())


def _vectors(
    model: FullModel, given: _Rows, batch: Ints, course: Course, draw: np.random.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the vectors of a batch; without `draw` of its pictures as they are and their first wordings."""
    pixels = torch.from_numpy(np.ascontiguousarray(given.images[batch].transpose(0, 3, 1, 2)))
    pictures = pixels.to(course.device).float() / 255
    which = [given.tokens[row] for row in batch.tolist()]
    if draw is not None:
        pictures = augmented(pictures, [given.how[row] for row in batch.tolist()], draw)
    tokens = torch.stack([some[0 if draw is None else int(draw.integers(len(some)))] for some in which])
    with autocast(course.device, course.precision):
        image, text = model(pictures, tokens.to(course.device))
    return image, text


def images_of(pairs: Pairs, preprocess: Preprocess, folder: Path) -> tuple[Images, Flags]:
    """Return the pictures of the pairs as the model takes them, mapped from a file, and which could be decoded.

    They are decoded once; (n, height, width, 3) uint8. Raises RunError for what the machine could not decode in time.
    """
    path, note = folder / "images.npy", folder / "images.json"
    made = storage.fingerprint("images", 1, pairs.fingerprint, asdict(preprocess))
    noted = storage.read_json(note) or {}
    if noted.get("made") != made or not checksums.verify_or_remove(path):
        storage.remove(note)
        lost = _decode(pairs, preprocess, path)
        storage.write_record(note, noted := {"made": made, "lost": lost})
    decoded = np.ones(len(pairs), np.bool_)
    decoded[noted["lost"]] = False
    return np.load(path, mmap_mode="r", allow_pickle=False), decoded


def _decode(pairs: Pairs, preprocess: Preprocess, path: Path) -> list[int]:
    """Write the pictures in the order of the pairs; return the places of those that are lost (black)."""
    context, lost = pairs.context, []
    total = sum(part.rows for part in context.parts)
    wanted = np.zeros(max(total, int(pairs.place.max()) + 1), np.bool_)
    wanted[pairs.place] = True
    order = np.argsort(pairs.place, kind="stable")
    height, width = preprocess.size
    with storage.atomic(path, checksum=True) as partial:
        file = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(pairs), height, width, 3))
        found = decoded_images(context, wanted, preprocess, SOURCES, stage="images")
        for row, one in zip(order.tolist(), found, strict=True):
            if one.outcome in PASSING:
                raise RunError(f"train-filter: image of {pairs.uids[row]}: {one.reason}; run again")
            if one.array is None:
                lost.append(row)
            else:
                file[row] = one.array
        file.flush()
    return sorted(lost)


def write_model(model: FullModel, folder: Path, *, half: bool) -> None:
    """Write a model so that open_clip, and `embed.model: local-dir:FOLDER`, can load it. half : in half precision."""
    from safetensors.torch import save_file

    state = {
        name: (value.half() if half and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        .clone()
        for name, value in model.network.state_dict().items()
    }
    kept = model.preprocess
    preprocess = {
        "size": list(kept.size), "mean": list(kept.mean), "std": list(kept.std), "interpolation": kept.interpolation,
        "resize_mode": kept.resize_mode, "fill_color": kept.fill,
    }  # fmt: skip
    config = {"model_cfg": model.config, "preprocess_cfg": preprocess}
    storage.write_json(folder / CONFIG, config)
    if (inner := getattr(model.tokenizer, "tokenizer", None)) is not None:
        inner.save_pretrained(str(folder))
    with storage.atomic(folder / MODEL) as partial:
        save_file(state, partial, metadata={"format": "pt"})
        partial.chmod(0o644)
