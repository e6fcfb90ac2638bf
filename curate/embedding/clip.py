"""Load an open_clip model and turn pixels and captions into unit vectors.

Results do not depend on which rows share a batch: the model only ever sees batches of one fixed size, the last
one filled up by repeating its first row, and a CPU runs each batch on one thread (`one_thread`). Measured on x86
(AVX2, MKL and oneDNN, torch 2.13) for ViT and ModifiedResNet towers: every row is then bitwise the same at any
place and with any companions. With two threads a ResNet's last bits change in batches of 8 and fewer, because
oneDNN chooses other kernels. Batches beside each other (`encode.embed_rows`) use all cores, and better.
"""

import contextlib
import copy
import difflib
import hashlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from curate.embedding.decode import Preprocess
from curate.embedding.devices import devices_of, enough_memory, exact_convolutions, moved, one_thread
from curate.embedding.hub_access.hub import asked_for, cannot_get, offline, why_unreachable
from curate.embedding.precision import auto_precision
from curate.embedding.torchvision_guard import import_open_clip
from curate.errors import ModelError

__all__ = ["Clip", "check", "load", "preprocess_of", "quiet"]

TINY = "tiny"
#: Rows per forward pass on a CPU are at most 64 and at most this many pixels (8 rows of 224 x 224): larger
#: batches leave the caches, are slower, and keep a Ctrl-C waiting.
CPU_PIXELS = 1 << 19
#: Characters of a caption given to the tokenizer first; more follow only if they did not fill the context.
CAPTION_CHARACTERS = 4_000
#: No more characters than this are ever read of a caption (white space between words counts once).
CAPTION_LIMIT = 100_000

_DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
_TINY_FOLDER = Path(__file__).parent / "tiny"


@dataclass(frozen=True, eq=False)
class Clip:
    """A loaded model; make one with `load`.

    dim : length of its vectors. temperature : what its similarities are divided by before a softmax.
    identity : hash of architecture, preprocessing and weights, the same on every device and precision.
    batch_size : rows per forward pass. replicas : the same model on further devices of the same kind.
    """

    name: str
    pretrained: str | None
    dim: int
    preprocess: Preprocess
    temperature: float
    identity: str
    device: str
    precision: str
    batch_size: int
    _model: Any = field(repr=False)
    _tokenizer: Callable[[list[str]], torch.Tensor] = field(repr=False)
    replicas: "tuple[Clip, ...]" = field(default=(), repr=False)

    def for_training(self) -> tuple[torch.nn.Module, Callable[[list[str]], torch.Tensor]]:
        """Return the network itself, whose weights may then be changed, and the tokenizer."""
        network: torch.nn.Module = self._model.requires_grad_(True)
        return network, self._tokenizer

    def encode_images(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of `pixels`, (n, height, width, 3) uint8 as `decode.to_array` makes them.

        (n, dim) float32; a row the model gives no finite vector for is NaN.
        """
        device = torch.device(self.device)
        mean = torch.tensor(self.preprocess.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocess.std, device=device).view(1, 3, 1, 1)

        def forward(batch: torch.Tensor) -> torch.Tensor:
            image = moved(batch, device).permute(0, 3, 1, 2).contiguous().float()
            features: torch.Tensor = self._model.encode_image(image.div_(255).sub_(mean).div_(std))
            return features

        return self._encode(torch.from_numpy(np.require(pixels, requirements=["C", "W"])), forward)

    def encode_texts(self, captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors of `captions`, (n, dim) float32; a row that is not finite is NaN.

        The tokenizer cuts what does not fit the model's context. Of a very long caption it is given
        the first words only, and more of them only where these did not fill the context.
        """
        if len(captions) == 0:
            return np.empty((0, self.dim), np.float32)

        def forward(batch: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self._model.encode_text(moved(batch, torch.device(self.device)))
            return features

        return self._encode(_tokenize(captions, self._tokenizer), forward)

    def token_table(self) -> tuple[npt.NDArray[np.float32] | None, Any]:
        """Return the table of the tokens' vectors (tokens, width), or None where it has none of that name, and the tokenizer."""
        table = getattr(getattr(self._model, "text", self._model), "token_embedding", None)
        weight = getattr(table, "weight", None)
        return None if weight is None else weight.detach().float().cpu().numpy(), self._tokenizer

    def _encode(
        self, rows: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> npt.NDArray[np.float32]:
        vectors = np.empty((len(rows), self.dim), np.float32)
        dtype = _DTYPES[self.precision]
        settings = one_thread() if self.device == "cpu" else exact_convolutions()
        cast = contextlib.nullcontext() if dtype is None else torch.autocast(self.device.split(":")[0], dtype)
        with settings, torch.inference_mode(), cast, enough_memory(self.name, self.device, self.batch_size):
            for start in range(0, len(rows), self.batch_size):
                batch = rows[start : start + self.batch_size]
                missing = self.batch_size - len(batch)
                if missing:
                    batch = torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])
                features = forward(batch)
                stop = len(rows) - start if missing else self.batch_size
                vectors[start : start + stop] = _unit(features[:stop].float().cpu().numpy())
        return vectors


def load(
    model: str,
    pretrained: str | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 256,
) -> Clip:
    """Return the model `model` with the weights `pretrained`, ready to encode.

    model : `tiny` (shipped, needs no network), an architecture of open_clip, `local-dir:PATH` or
    `hf-hub:OWNER/NAME` (both bring their weights). pretrained : a tag of open_clip, downloaded unless
    cached, or the path of a checkpoint, read without running what it contains.
    device : `auto` is CUDA where there is one; several (`cuda:0,cuda:1`) each get a replica. precision : `auto`,
    `float32`, `float16` or `bfloat16` (autocast, with weights of the products kept so); see `precision.auto_precision`
    for auto. batch_size : rows per forward pass; fewer
    on a CPU, see `CPU_PIXELS`. Raises ModelError.
    """
    if batch_size < 1:
        raise ModelError(f"embed.batch_size must be at least 1, got {batch_size}")
    device, *more = devices_of(device)
    precision = _precision(precision, model, pretrained, device)
    with quiet():
        open_clip = import_open_clip()
        name, weights, force = _resolve(open_clip, model, pretrained)
        network, tokenizer = _create(open_clip, name, weights, force, model)
    config = open_clip.get_model_config(name)
    preprocess = preprocess_of(network)
    identity = _identity(network, {"config": config, "preprocess": asdict(preprocess), "force": force})
    temperature = float(np.exp(-network.logit_scale.detach().double().item()))
    with enough_memory(model, device, batch_size):
        network = _placed(open_clip, network, device, precision)
    clip = Clip(
        name=model,
        pretrained=pretrained,
        dim=int(config["embed_dim"]),
        preprocess=preprocess,
        temperature=temperature,
        identity=identity,
        device=device,
        precision=precision,
        batch_size=min(batch_size, _cpu_batch(preprocess)) if device == "cpu" else batch_size,
        _model=network,
        _tokenizer=tokenizer,
    )
    return replace(clip, replicas=tuple(_replica(clip, other) for other in more)) if more else clip


def _replica(clip: Clip, device: str) -> Clip:
    """Return the same model on another device."""
    with enough_memory(clip.name, device, clip.batch_size):
        return replace(clip, device=device, _model=copy.deepcopy(clip._model).to(device))


def _placed(open_clip: ModuleType, network: torch.nn.Module, device: str, precision: str) -> torch.nn.Module:
    """Return a network ready to encode on a device.

    Weights of products and convolutions are brought to half precision once: autocast would do it in every pass, which
    takes longer than a pass over eight images. They keep saying that they require a gradient, though none is ever
    computed: otherwise torch multiplies a batch of captions row by row, each with a copy of the weights.
    """
    dtype = _DTYPES[precision]
    network = network.eval().requires_grad_(True)
    if dtype is not None:
        open_clip.model.convert_weights_to_lp(network, dtype)
    return network.to(device)


def _cpu_batch(preprocess: Preprocess) -> int:
    """Return the rows per forward pass on a CPU, a power of two.

    >>> [_cpu_batch(Preprocess((size, size))) for size in (64, 224, 336, 1024)]
    [64, 8, 4, 1]
    """
    height, width = preprocess.size
    return min(64, 1 << max(0, (CPU_PIXELS // (height * width)).bit_length() - 1))


def _precision(precision: str, model: str, pretrained: str | None, device: str) -> str:
    if precision == "auto":
        return auto_precision(model, pretrained, device)
    if precision not in _DTYPES:
        raise ModelError(f"embed.precision must be auto, {', '.join(_DTYPES)}, got {precision!r}")
    return precision


def _resolve(
    open_clip: ModuleType, model: str, pretrained: str | None
) -> tuple[str, str | None, dict[str, Any]]:
    """Return what open_clip is asked for: name, tag or path, and settings the weights imply."""
    if model == TINY:
        if pretrained is not None:
            raise ModelError(f"model 'tiny' brings its own weights; leave out pretrained, got {pretrained!r}")
        if TINY not in open_clip.list_models():
            open_clip.add_model_config(_TINY_FOLDER / "tiny.json")
        weights = _TINY_FOLDER / "model.safetensors"
        if not weights.is_file():
            raise ModelError("the weights of model 'tiny' are missing from the installed package")
        return TINY, str(weights), {}
    if model.startswith(("local-dir:", "hf-hub:")):
        if pretrained is not None:
            raise ModelError(
                f"model {model!r} brings its own weights; leave out pretrained, got {pretrained!r}"
            )
        return model, None, {}
    known = open_clip.list_models()
    if model not in known:
        raise ModelError(f"no model is called {model!r}{_close(model, [TINY, *known])}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is None:
        raise ModelError(
            f"model {model!r} needs weights: set pretrained to {_one_of(tags)}the path of a checkpoint"
        )
    if open_clip.is_pretrained_cfg(model, pretrained):
        # open_clip only warns when weights trained with QuickGELU run without it, and embeds badly.
        quick = bool(open_clip.get_pretrained_cfg(model, pretrained).get("quick_gelu"))
        return model, pretrained, {"force_quick_gelu": True} if quick else {}
    if not Path(pretrained).is_file():
        raise ModelError(
            f"pretrained {pretrained!r} is neither a file nor weights of {model!r}"
            f"{_close(pretrained, tags)}; set it to {_one_of(tags)}the path of a checkpoint"
        )
    return model, pretrained, {"force_preprocess_cfg": _agreed_preprocessing(open_clip, model, tags)}


def _agreed_preprocessing(open_clip: ModuleType, model: str, tags: Sequence[str]) -> dict[str, Any]:
    """Return the preprocessing that all published weights of an architecture share, or nothing.

    For a checkpoint file open_clip would assume the original CLIP's, which is wrong for SigLIP.
    """
    keys = ("mean", "std", "interpolation", "resize_mode")
    found = [{k: v for k, v in open_clip.get_pretrained_cfg(model, tag).items() if k in keys} for tag in tags]
    return found[0] if found and all(each == found[0] for each in found) else {}


def check(model: str, pretrained: str | None = None) -> None:
    """Raise ModelError for a model that cannot be had, as `load` does; as a rule no weights are read.

    A name that open_clip does not know, a checkpoint that is not there, and weights that are neither cached nor to be
    downloaded, because the hub cannot be reached.
    """
    with quiet():
        open_clip = import_open_clip()
        name, weights, force = _resolve(open_clip, model, pretrained)
        unreachable = why_unreachable() if _is_remote(open_clip, name, weights) else None
        if unreachable is None:
            return
        if weights is None or Path(weights).is_file() or _tokenizer_of(open_clip, name):
            _create(
                open_clip, name, weights, force, model
            )  # it takes more than one file: the cache has them all, or not
            return
        try:
            with offline():
                open_clip.pretrained.download_pretrained(open_clip.get_pretrained_cfg(name, weights))
        except Exception as error:  # whatever open_clip or the hub raise
            raise ModelError(cannot_get(asked_for(model, weights), unreachable)) from error


def _tokenizer_of(open_clip: ModuleType, name: str) -> str | None:
    """Return the name of the tokenizer that an architecture has from the hub, None where it has that of open_clip."""
    text = {} if ":" in name else open_clip.get_model_config(name)["text_cfg"]
    return text.get("hf_tokenizer_name")


def _is_remote(open_clip: ModuleType, name: str, weights: str | None) -> bool:
    """Whether a part of a model comes from the hub, or from its cache."""
    published = weights is not None and not Path(weights).is_file()
    return name.startswith("hf-hub:") or published or _tokenizer_of(open_clip, name) is not None


def _create(
    open_clip: ModuleType, name: str, weights: str | None, force: dict[str, Any], model: str
) -> tuple[Any, Callable[[list[str]], torch.Tensor]]:
    """Return network (float32, on the CPU) and tokenizer; every failure is a ModelError that says what to do."""
    file = Path(weights) if weights is not None and Path(weights).is_file() else None
    remote = _is_remote(open_clip, name, weights)
    unreachable = why_unreachable() if remote else None
    asked = asked_for(model, weights)
    try:
        with contextlib.nullcontext() if unreachable is None else offline():
            network = open_clip.create_model(name, weights, require_pretrained=True, **force)
            return network, open_clip.get_tokenizer(name)
    except ImportError as error:
        raise ModelError(f"{asked} needs a package that is not installed: {error}") from error
    except Exception as error:  # whatever open_clip, torch, safetensors or the hub raise
        if file is not None and not remote:
            raise ModelError(_why_not_loaded(open_clip, file, model, error)) from error
        reason = unreachable or " ".join(str(error).split())[:300]
        if not remote:
            raise ModelError(f"cannot load {asked}: {reason}") from error
        raise ModelError(cannot_get(asked, reason)) from error


def _why_not_loaded(open_clip: ModuleType, file: Path, model: str, error: Exception) -> str:
    """Return why a checkpoint file could not be used: unreadable, or of another architecture."""
    try:
        open_clip.factory.load_state_dict(str(file))
    except Exception as unreadable:  # noqa: BLE001 - any of several libraries
        reason = f"{type(unreadable).__name__}: {' '.join(str(unreadable).split())[:200]}"
        return f"{file}: not a readable checkpoint ({reason})"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{file}: not weights of {model}: {' '.join(lines[:2])[:300]}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip from logging through the root logger (which also installs a handler) and from warning."""
    root, silence = logging.getLogger(), logging.NullHandler()
    before = logging.root.manager.disable
    root.addHandler(silence)
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(silence)


def preprocess_of(network: Any) -> Preprocess:  # noqa: ANN401  (an open_clip model)
    """Return how images are brought to what a model takes."""
    settings: dict[str, Any] = network.visual.preprocess_cfg

    def three(value: float | Sequence[float]) -> tuple[float, float, float]:
        values = list(value) if isinstance(value, Sequence) else [value] * 3
        return (float(values[0]), float(values[1]), float(values[2]))

    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return Preprocess(
        size=(int(height), int(width)),
        resize_mode=settings["resize_mode"] or "shortest",
        # open_clip takes everything but bilinear for bicubic
        interpolation="bilinear" if settings["interpolation"] == "bilinear" else "bicubic",
        fill=int(settings["fill_color"]),
        mean=three(settings["mean"]),
        std=three(settings["std"]),
    )


def _identity(network: torch.nn.Module, settings: dict[str, Any]) -> str:
    """Return the hash of the settings and of all weights, by name."""
    state = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows of length 1; rows that are zero or not finite become NaN."""
    wide = features.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        unit = wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    unit[~np.isfinite(unit).all(axis=1)] = np.nan
    vectors: npt.NDArray[np.float32] = unit.astype(np.float32)
    return vectors


def _tokenize(captions: Sequence[str], tokenizer: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """Return the tokens (n, context) of captions of any length, in time that does not grow with it."""
    texts = [caption.encode("utf-8", "replace").decode() for caption in captions]  # lone surrogates
    tokens = tokenizer([text if len(text) <= CAPTION_CHARACTERS else "" for text in texts])
    for row, text in enumerate(texts):
        if len(text) > CAPTION_CHARACTERS:
            tokens[row] = _tokenize_long(text, tokenizer)
    return tokens


def _tokenize_long(text: str, tokenizer: Callable[[list[str]], torch.Tensor]) -> torch.Tensor:
    """Return the tokens of the shortest beginning of `text` (whole words) that fills the context."""
    text = re.sub(r"[ \t\r\n]{2,}", lambda run: "\n" if "\n" in run[0] else " ", text)[:CAPTION_LIMIT]
    blank = tokenizer([""])[0]
    size = CAPTION_CHARACTERS
    while True:
        end = len(text)
        if size < end:
            end = max(text.rfind(" ", size // 2, size), text.rfind("\n", size // 2, size), size // 2)
        tokens = tokenizer([text[:end]])[0]
        # Models that end every row with a class token still have padding in the place before it.
        if end == len(text) or bool((tokens[-2:] != blank[-2:]).any()):
            return tokens
        size *= 4


def _close(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, found))}?" if found else ""


def _one_of(tags: Sequence[str]) -> str:
    return f"one of {', '.join(tags)}, or " if tags else ""
