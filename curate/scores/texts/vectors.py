"""Vectors of texts by the model of a run, embedded once and kept in its scratch folder; or given as `.npy` files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.errors import EmbeddingError, UsageError
from curate.io import checksums, storage
from curate.linalg import unit_rows

if TYPE_CHECKING:
    from curate.execution.context import Context
    from curate.recipe import Recipe

__all__ = ["Groups", "check_texts", "file_hashes", "group_vectors"]

#: An entry that ends so is a file of vectors, not a text.
ENDING = ".npy"

Matrix = npt.NDArray[np.float32]
#: Texts, or files of vectors, by what they are for.
Groups = Mapping[str, Sequence[str]]


def check_texts(recipe: "Recipe", groups: Groups, what: str) -> None:
    """Raise UsageError where a file is not there, or a text stands where no model reads texts.

    what : the setting, for messages.
    """
    for name, entries in groups.items():
        for entry in entries:
            if entry.endswith(ENDING):
                _read(Path(entry), f"{what}.{name}")
            elif recipe.embed.own_vectors:
                raise _no_model(f"{what}.{name}", entry)


def _no_model(setting: str, entry: str) -> UsageError:
    return UsageError(
        f"{setting}: there is no model that reads {entry!r}, for the vectors are given; name a {ENDING} file with the "
        "vectors of the texts by the same model, one row each"
    )


def file_hashes(groups: Groups) -> list[object]:
    """Return what the files of vectors hold, as hashes."""
    return [storage.hash_file(Path(one)) for some in groups.values() for one in some if one.endswith(ENDING)]


def group_vectors(
    context: "Context | None", groups: Groups, what: str, beside: Iterable[Groups] = ()
) -> dict[str, Matrix]:
    """Return the unit vectors of each group of texts, (m, d) each; files count with all their rows.

    context : of the run whose model reads the texts; None for samples in memory, where only files can be given.
    what : the setting, for messages. beside : what other scores will ask for: where the model has to be loaded, it reads
    these too. Raises UsageError for a text that no model can read, EmbeddingError for files whose
    vectors are of another length than the others.
    """
    texts = sorted(_texts(groups))
    if texts and (context is None or context.recipe.embed.own_vectors):
        raise _no_model(what, texts[0])
    known = {} if context is None else _embedded(context, texts, beside)
    found = {}
    for name, entries in groups.items():
        rows = [
            _read(Path(one), f"{what}.{name}") if one.endswith(ENDING) else known[one][None]
            for one in entries
        ]
        lengths = {one.shape[1] for one in rows}
        if len(lengths) > 1:
            raise EmbeddingError(
                f"{what}.{name}: vectors must be of one length, got {', '.join(map(str, sorted(lengths)))}"
            )
        found[name] = np.concatenate(rows) if rows else np.empty((0, 0), np.float32)
    return found


def _read(path: Path, setting: str) -> Matrix:
    """Return the vectors of a file as unit rows; one vector may stand without the other dimension."""
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{setting}: there is no file {path}") from None
    except (OSError, ValueError, EOFError):
        raise UsageError(f"{setting}: {path} is no {ENDING} file of numbers") from None
    rows = array[None] if array.ndim == 1 else array
    if rows.dtype.kind != "f" or rows.ndim != 2 or not rows.size:
        raise UsageError(
            f"{setting}: {path} must hold vectors of floats (m, d), got {array.dtype} {array.shape}"
        )
    unit, valid = unit_rows(rows)
    if not valid.all():
        raise UsageError(
            f"{setting}: {path}: row {int(np.argmin(valid))} is zero or not finite; leave it out"
        )
    return unit


def _texts(groups: Groups) -> set[str]:
    return {one for some in groups.values() for one in some if not one.endswith(ENDING)}


def _embedded(context: "Context", texts: Sequence[str], beside: Iterable[Groups]) -> dict[str, Matrix]:
    """Return the unit vector of each text, (d,), from the scratch folder where it is there already."""
    files = {text: _file(context, text) for text in texts}
    if not all(checksums.verify_or_remove(file) for file in files.values()):
        all_ = set(texts).union(*map(_texts, beside))
        every = {_file(context, text): text for text in sorted(all_)}
        missing = [file for file in every if not checksums.verify_or_remove(file)]
        vectors = _encode(context, [every[file] for file in missing])
        for file, vector in zip(missing, vectors, strict=True):
            with storage.atomic(file, checksum=True) as partial, partial.open("wb") as out:
                np.save(out, vector)
    return {text: np.load(storage.ensure_local(file), allow_pickle=False) for text, file in files.items()}


def _file(context: "Context", text: str) -> Path:
    """Return where the vector of a text is kept: its name stands for the text and the model."""
    embed = context.recipe.embed.model_dump(mode="json", exclude={"device"})
    space = context.facts(context.run.embeddings).get("space") or embed
    return context.run.work / "texts" / f"{storage.fingerprint('text', 1, space, text)[:24]}.npy"


def _encode(context: "Context", texts: Sequence[str]) -> Matrix:
    from curate.embedding import clip as clips

    embed = context.recipe.embed
    clip = clips.load(
        embed.model, embed.pretrained, device=embed.device, precision=embed.precision,
        batch_size=embed.batch_size,
    )  # fmt: skip
    found = clip.encode_texts(texts)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        raise EmbeddingError(f"the model gives no finite vector for {texts[int(bad[0])]!r}")
    return found
