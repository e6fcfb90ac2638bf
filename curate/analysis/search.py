"""Search a run by text, image, vector or sample: the query becomes a vector of the run's own kind."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curate.analysis.nearest import allowed_rows, check_limits, nearest, stored_vector, told
from curate.analysis.retrieval.ground import THRESHOLD, Answer, ground_of, relevant
from curate.analysis.summary.tables import facts, require
from curate.errors import EmbeddingError, ModelError, SourceError, UsageError
from curate.io import storage
from curate.linalg import unit_rows
from curate.recipe import Embed
from curate.recipe.loading import load_recipe
from curate.runs.folder import RunFolder
from curate.runs.run import open_run

if TYPE_CHECKING:
    import polars as pl

    from curate.embedding.clip import Clip

__all__ = ["Query", "judged_search", "query_vector", "search", "text_model"]


Vector = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Query:
    """What to look for: exactly one of a text, an image file, a `.npy` file of one vector, the uid of a sample."""

    text: str | None = None
    image: Path | None = None
    vector: Path | None = None
    uid: str | None = None

    def __post_init__(self) -> None:
        given = [one.name for one in dataclasses.fields(self) if getattr(self, one.name) is not None]
        if len(given) != 1:
            both = f"got {' and '.join(given)}" if given else "got none"
            raise UsageError(f"search takes one of a text, --image, --vector and --uid, {both}")
        if self.text is not None and not self.text.strip():
            raise UsageError("the text to search for must not be empty")


def search(
    run: str | Path,
    query: Query,
    *,
    top: int = 20,
    on: str = "image",
    concept: int | None = None,
    kept: bool | None = None,
    threshold: float = THRESHOLD,
) -> "pl.DataFrame":
    """Return the samples of a run that a query finds, the best first.

    A text finds the images that are relevant to it (at least `threshold`, 0 for the best of what there is), perhaps none.
    An image, a vector and a sample find what is nearest, and so does a text among captions (`on`). concept, kept : only
    samples of a concept, only kept (True) or dropped (False) ones. A sample searched for by its uid is not found itself.
    Columns: relevance (0 to 1, null where there is none), similarity (cosine, float64), uid, concept, keep, reason,
    caption, label, shard, row.
    """
    return judged_search(run, query, top=top, on=on, concept=concept, kept=kept, threshold=threshold)[0]


def judged_search(
    run: str | Path,
    query: Query,
    *,
    top: int,
    on: str,
    concept: int | None,
    kept: bool | None,
    threshold: float,
    clip: "Clip | None" = None,
) -> tuple["pl.DataFrame", Answer | None]:
    """Return what `search` returns, and for a text among images what was judged. clip : the model, if it is loaded already.

    Raises UsageError for a setting that is wrong.
    """
    import polars as pl

    if on not in ("image", "text"):
        raise UsageError(f"--on must be image or text, got {on!r}")
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}")
    if not 0 <= threshold <= 1:
        raise UsageError(f"--threshold must be from 0 to 1, got {threshold:g}")
    folder = open_run(run).folder
    if query.text is None or on == "text":
        vector = query_vector(folder, query, on=on, clip=clip)
        found = nearest(folder, vector, top=top, on=on, concept=concept, kept=kept, without=query.uid)
        return found.insert_column(0, pl.lit(None, pl.Float64).alias("relevance")), None
    require(folder, folder.embeddings)
    clip = clip or text_model(folder)
    check_limits(folder, concept, kept)
    ground = ground_of(folder, clip)

    def may(part: str, rows: int) -> npt.NDArray[np.bool_]:
        return allowed_rows(folder, part, rows, concept, kept)

    [answer] = relevant(ground, [query.text], threshold=threshold, top=top, compete=False, allowed=may)
    rows = answer.rows
    hits = list(rows.select("cosine", "uid", "part", "position").iter_rows())
    return told(folder, hits).insert_column(0, rows["relevance"]), answer


def query_vector(run: RunFolder, query: Query, *, on: str = "image", clip: "Clip | None" = None) -> Vector:
    """Return the vector of a query, (d,) float32 of unit length, by the model that made the vectors of the run.

    clip : that model, if it is loaded already. Raises EmbeddingError where it gives no finite vector.
    """
    require(run, run.embeddings)
    if query.uid is not None:
        return stored_vector(run, query.uid, on)
    if query.vector is not None:
        return _given(query.vector)
    embed = load_recipe(run.recipe).embed
    data = None if query.image is None or embed.own_vectors else _bytes(query.image)
    clip = clip or text_model(run)
    found = (
        clip.encode_texts([query.text or ""]) if data is None else _encoded(clip, embed, query.image, data)
    )
    if not np.isfinite(found).all():
        raise EmbeddingError(f"the model gives no finite vector for {query.text or query.image}")
    vector: Vector = found[0]
    return vector


def text_model(run: RunFolder, embed: Embed | None = None) -> "Clip":
    """Return the model of a run, which reads texts; raises UsageError for a run on vectors of the user's own, ModelError.

    embed : its settings, those of the stored recipe by default.
    """
    embed = load_recipe(run.recipe).embed if embed is None else embed
    if embed.own_vectors:
        name = "column" if embed.column is not None else "files"
        raise UsageError(
            f"{run.where} has vectors of its own (embed.{name}), made by a model curate does not know: it cannot "
            "read a text or an image; search with --vector FILE.npy or --uid UID"
        )
    return _model(run, embed)


def _given(path: Path) -> Vector:
    """Return the one vector of a `.npy` file, scaled to length 1."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"--vector: there is no file {path}") from None
    except (OSError, ValueError, EOFError):  # numpy's own words invite to unpickle
        raise UsageError(f"--vector: {path} is no .npy file of numbers") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim not in (1, 2):
        raise UsageError(f"--vector: {path} must hold one vector of floats")
    rows = array[None, :] if array.ndim == 1 else array
    if len(rows) != 1:
        raise UsageError(f"--vector: {path} must hold one vector, got {len(rows):,}")
    unit, valid = unit_rows(np.asarray(rows))
    if not valid[0]:
        raise EmbeddingError(f"--vector: {path} holds a vector that is zero or not finite")
    vector: Vector = unit[0]
    return vector


def _model(run: RunFolder, embed: Embed) -> "Clip":
    """Return the model of a run; raises ModelError where its weights cannot be had, or are not those of the run."""
    from curate.embedding import clip as clips

    space = facts(run, run.embeddings).get("space") or {}
    weights = space.get("weights")
    file = None if embed.pretrained is None else Path(embed.pretrained)
    if weights is not None and file is not None and file.is_file() and storage.hash_file(file) != weights:
        raise ModelError(
            f"{file} is not the checkpoint that {run.where} was embedded with; put that one back"
        )
    return clips.load(
        embed.model,
        embed.pretrained,
        device=embed.device,
        precision=noted if (noted := space.get("precision")) in ("float32", "bfloat16") else embed.precision,
        batch_size=embed.batch_size,
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--image: cannot read {path}: {error.strerror or error}") from None


def _encoded(clip: "Clip", embed: Embed, path: Path | None, data: bytes) -> Vector:
    """Return the vector of an image, (1, d), decoded in a guarded process as those of the run were."""
    from curate.embedding.decode_pool import DecodePool

    with DecodePool(
        clip.preprocess,
        workers=1,
        max_pixels=embed.max_pixels,
        memory_limit_bytes=embed.decode_memory,
        way=embed.decode,
    ) as pool:
        [(_, [decoded])] = list(pool.map([(None, [data])]))
    if decoded.array is None:
        raise SourceError(f"--image: {path}: {decoded.outcome}: {decoded.reason}")
    return clip.encode_images(decoded.array[None])
