"""Training a filter from its recipe: the pairs, the model, and the folder that the score `dfn` reads."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.errors import ModelError, UsageError
from curate.execution.context import Progress, log, silent
from curate.hashing import hash_uids
from curate.io import lock, storage
from curate.io.holding import LOCK
from curate.pipeline.stages.embed_task import space_of
from curate.scores.dfn.stored import FACTS, FILTER_VERSION, MODEL, WEIGHTS, StoredFilter, open_filter
from curate.scores.heads.evaluation import fixed_threads
from curate.scores.heads.labels import device_of
from curate.training.filter_recipe import FilterRecipe
from curate.training.page import page
from curate.training.pairs import LEAST, Pairs, read_pairs, temperature_of

__all__ = ["train_recipe"]

Arrays = dict[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What training gives: arrays of the filter, a curve per member, the scale, and more facts."""

    arrays: Arrays
    curves: list[Any]
    scale: float
    facts: dict[str, Any]


def train_recipe(recipe: FilterRecipe, *, progress: Progress = silent) -> StoredFilter:
    """Train what a recipe says and write it; a filter that is there as it would be made is not trained again.

    Raises UsageError, before anything is trained, for a set that is not to be had or shares rows with `against`, and where
    the folder holds something else.
    """
    out = Path(recipe.out)
    if out.exists() and (not out.is_dir() or not _may_hold(out)):
        raise UsageError(f"out: {out} holds something else than a filter; name a new folder")
    start = None if recipe.start is None else open_filter(recipe.start, "start")
    if start is not None and start.path.resolve() == out.resolve():
        raise UsageError(
            f"start: {start.path} is out, which is replaced; name another folder for the new filter"
        )
    if start is not None and start.kind != recipe.kind:
        raise UsageError(
            f"start: {start.path} is of kind {start.kind}, and the recipe asks for {recipe.kind}"
        )
    if start is not None:
        start.check_files("start")
    if recipe.kind == "full":
        from curate.training.full import require_model

        require_model(recipe)
    device = device_of(recipe.device, "device")
    precision = _precision(recipe, device)
    with lock.held(out):
        return _train(recipe, start, device, precision, progress)


def _train(
    recipe: FilterRecipe, start: StoredFilter | None, device: str, precision: str, progress: Progress
) -> StoredFilter:
    out = Path(recipe.out)
    storage.clear_partials(out)
    pairs = read_pairs(recipe, progress)
    made = storage.fingerprint(
        "filter", FILTER_VERSION, recipe.fingerprinted(), pairs.fingerprint, _model_hash(recipe), precision,
        None if start is None else start.identity,
    )  # fmt: skip
    before = storage.read_json(out / FACTS)
    if isinstance(before, dict) and before.get("made_from") == made:
        try:
            there = open_filter(out, "out")
            there.check_files("out")
        except UsageError:
            log.warning("train-filter: %s is damaged and is trained anew", out)
        else:
            log.info("train-filter: %s is there already", out)
            return there
    with fixed_threads(recipe.threads):
        train = {"adapter": _adapter, "head": _head, "full": _full}[recipe.kind]
        found = train(recipe, pairs, start, _Place(out, made, device, precision, progress))
    return _write(recipe, pairs, found, made)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where and how a model is trained."""

    out: Path
    made: str
    device: str
    precision: str
    progress: Progress

    def course(self, recipe: FilterRecipe, batches: int, member: int = 0) -> Any:  # noqa: ANN401  (a Course: torch)
        from curate.training.loop import Course, epochs_for

        seed = int(hash_uids([str(member)], recipe.seed, "member")[0] >> np.uint64(33))
        return Course(
            epochs=epochs_for(recipe.value("epochs"), batches), rate=recipe.value("rate"), decay=recipe.value("decay"),
            warmup=recipe.warmup, seed=seed, fingerprint=f"{self.made}-{member}", device=self.device, precision=self.precision,
            checkpoint=self.out / ".work" / f"checkpoint-{member}.pt",
        )  # fmt: skip


def _may_hold(out: Path) -> bool:
    """Return True for an empty folder, and for one with a filter, whole or begun; a run has a folder `.work` too."""
    names = {path.name for path in out.iterdir()}
    return not names - {LOCK} or ("recipe.yaml" not in names and bool(names & {FACTS, ".work"}))


def _precision(recipe: FilterRecipe, device: str) -> str:
    """Return the precision `auto` stands for: half precision where the device has it and a model is trained."""
    if recipe.precision == "auto":
        if not device.startswith("cuda") or recipe.kind != "full":
            return "float32"
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if recipe.precision == "float16" and not device.startswith("cuda"):
        raise ModelError(f"precision float16 needs a GPU, the device is {device}; take bfloat16 or float32")
    return recipe.precision


def _model_hash(recipe: FilterRecipe) -> list[object]:
    """Return what stands for the model that training begins with: its name, and the bytes of files."""
    files = [str(one) for one in (recipe.model, recipe.pretrained) if one is not None and Path(one).is_file()]
    weights = space_of(recipe.embed).get("weights") if recipe.model == "tiny" else None
    named = [None if str(one) in files else one for one in (recipe.model, recipe.pretrained)]
    return [*named, [storage.hash_file(Path(one)) for one in files], weights]


def _background(recipe: FilterRecipe, pairs: Pairs) -> npt.NDArray[np.int64]:
    """Return the rows that pairs are held against when they are scored: those with the least hashes."""
    order = np.argsort(hash_uids(pairs.uids, recipe.seed, "background"), kind="stable")
    return np.sort(order[: recipe.background])


def _adapter(recipe: FilterRecipe, pairs: Pairs, start: StoredFilter | None, place: _Place) -> _Trained:
    import torch

    from curate.training.adapter import Adapter, train_adapter

    dim, members = pairs.image.shape[1], recipe.value("members")
    first = float(start.facts["scale"]) if start is not None else 1.0 / temperature_of(pairs)
    if start is not None:
        start.check_vectors(pairs.space, dim, "start")
        members = len(start.arrays["image_bias"])
    names = ("image_weight", "image_bias", "text_weight", "text_bias")
    arrays: dict[str, list[Any]] = {name: [] for name in names}
    curves, scales, held_rows = [], [], 0
    for member in range(members):
        model = Adapter(dim, first, recipe.alpha)
        parameters = (model.image, model.image_bias, model.text, model.text_bias)
        if start is not None:
            with torch.no_grad():
                for name, one in zip(names, parameters, strict=True):
                    one.copy_(torch.from_numpy(start.arrays[name][member] / recipe.alpha))
        held = pairs.held_out(recipe.validation, recipe.seed, member)
        held_rows = int(held.sum())
        size = recipe.value("batch")
        course = place.course(recipe, -(-(len(pairs) - held_rows) // size), member)
        curves.append(
            train_adapter(
                model,
                pairs.uids,
                pairs.image,
                pairs.text,
                held,
                course,
                batch=size,
                hard=recipe.hard,
                noise=recipe.noise,
                progress=place.progress,
            )
        )
        scales.append(float(model.log_scale.detach().exp()))
        for name, one in zip(names, parameters, strict=True):
            arrays[name].append((recipe.alpha * one.detach()).cpu().numpy())
    rows = _background(recipe, pairs)
    stacked: Arrays = {name: np.stack(values) for name, values in arrays.items()}
    stacked |= {"background_image": _half(pairs.image[rows]), "background_text": _half(pairs.text[rows])}
    return _Trained(stacked, curves, float(np.mean(scales)), {"held_out": held_rows})


def _head(recipe: FilterRecipe, pairs: Pairs, start: StoredFilter | None, place: _Place) -> _Trained:
    import torch

    from curate.training.head import Head, classes_of, train_head

    classes = classes_of(pairs, None if start is None else start.facts)
    names = {**({} if start is None else start.facts.get("class_names") or {}), **pairs.class_names}
    model = Head(len(classes), pairs.image.shape[1])
    if start is not None:
        start.check_vectors(pairs.space, pairs.image.shape[1], "start")
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(start.arrays["weight"]))
            model.bias.copy_(torch.from_numpy(start.arrays["bias"]))
    held = pairs.held_out(recipe.validation, recipe.seed, 0)
    size = recipe.value("batch")
    course = place.course(recipe, -(-int((~held).sum()) // size))
    curve = train_head(model, pairs, classes, held, course, batch=size, progress=place.progress)
    arrays: Arrays = {
        "weight": model.weight.detach().cpu().numpy(),
        "bias": model.bias.detach().cpu().numpy(),
    }
    return _Trained(
        arrays, [curve], 1.0, {"held_out": int(held.sum()), "classes": classes, "class_names": names}
    )


def _full(recipe: FilterRecipe, pairs: Pairs, start: StoredFilter | None, place: _Place) -> _Trained:
    from curate.embedding import clip
    from curate.training.full import images_of, load_model, train_full, write_model

    model = load_model(recipe)
    images, decoded = images_of(pairs, model.preprocess, place.out / ".work")
    if decoded.sum() < LEAST:
        raise UsageError(
            f"set: at least {LEAST} pictures are needed to train on, and of {len(pairs):,} {int(decoded.sum()):,} can be decoded"
        )
    held = pairs.held_out(recipe.validation, recipe.seed, 0) & decoded
    size = recipe.value("batch")
    course = place.course(recipe, -(-int((~held & decoded).sum()) // size))
    curve = train_full(model, pairs, images, decoded, recipe, course, place.progress)
    storage.remove(place.out / FACTS)  # what stood there is no filter from here on
    write_model(model, place.out, half=recipe.half)
    loaded = clip.load(f"local-dir:{place.out}", device=place.device, precision="float32")
    rows = np.array([row for row in _background(recipe, pairs).tolist() if decoded[row]], np.int64)
    captions = [
        (pairs.captions[row] or "").split("\n")[0] if recipe.wordings else pairs.captions[row] or ""
        for row in rows
    ]
    arrays: Arrays = {
        "background_image": _half(loaded.encode_images(np.ascontiguousarray(images[rows]))),
        "background_text": _half(loaded.encode_texts(captions)),
    }
    lost = int((~decoded).sum())
    notes = [f"{lost:,} pictures of the set could not be decoded and were left out"] if lost else []
    return _Trained(
        arrays,
        [curve],
        1.0 / loaded.temperature,
        {"held_out": int(held.sum()), "dim": loaded.dim, "notes": notes},
    )


def _half(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    return rows.astype(np.float16)


def _write(recipe: FilterRecipe, pairs: Pairs, found: _Trained, made: str) -> StoredFilter:
    """Write the folder of the filter; the file that says what it is comes last."""
    out = Path(recipe.out)
    storage.remove(out / FACTS)
    with storage.atomic(out / WEIGHTS) as partial, partial.open("wb") as file:
        np.savez(file, **found.arrays)  # type: ignore[arg-type]
    curves = [curve.to_json() for curve in found.curves]
    storage.write_json(out / "loss.json", curves)
    names = [WEIGHTS, *([MODEL] if recipe.kind == "full" else [])]
    files = {name: storage.hash_file(out / name) for name in names}
    called = found.facts.get("class_names")
    best = [curve.best for curve in found.curves]
    facts: dict[str, Any] = {
        "version": FILTER_VERSION, "kind": recipe.kind, "identity": storage.fingerprint(made, files, *filter(None, [called])), "made_from": made,
        "files": files, "set": pairs.fingerprint, "rows": len(pairs), "dim": pairs.image.shape[1], "scale": found.scale,
        "space": pairs.space, "epochs": len(curves[0]) - 1, "best_epoch": best, "notes": [], **found.facts,
    }  # fmt: skip
    facts["notes"] = [*facts["notes"], *_notes(facts, best, asked=recipe.validation > 0)]
    facts["recipe"] = recipe.model_dump(mode="json")
    storage.write_json(out / "training.json", facts["recipe"])
    with storage.atomic(out / "training.html") as partial:
        partial.write_text(page(facts, curves), encoding="utf-8")
    storage.write_json(out / FACTS, facts)
    for note in facts["notes"]:
        log.warning("train-filter: %s", note)
    for path in sorted((out / ".work").glob("checkpoint-*.pt")) + sorted((out / ".work").glob("images.*")):
        storage.remove(path)
    return open_filter(out, "out")


def _notes(facts: Mapping[str, Any], best: list[int], *, asked: bool) -> list[str]:
    """Return what a user should know of a training. asked : whether rows were to be held out."""
    notes = []
    if not facts["held_out"] and asked:
        notes.append(
            "no rows were held out, so the last epoch was taken; a larger set, or validation, says which is best"
        )
    elif facts["held_out"] and not any(best):
        notes.append(
            "no epoch was better on held-out rows than the untrained model: the filter is that model; more pairs are needed"
        )
    return notes
