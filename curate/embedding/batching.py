"""Embed rows: decoding runs ahead in its own processes while the model works on full batches.

Images and captions of many input batches are regrouped into the model's batches, and results are given back
per input batch, in order. A row's vectors do not depend on the rows around it (see `clip`), so neither
regrouping, nor the number of workers, nor embedding equal captions once can change them.
"""

import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch

from curate.embedding.clip import Clip
from curate.embedding.decode import Decoded
from curate.embedding.decode_pool import DecodePool
from curate.embedding.devices import one_thread
from curate.process import cpu_count

__all__ = ["Embedded", "Unembedded", "default_decode_workers", "embed_rows"]

#: Vectors of captions kept for when the same caption comes again (labelled data has few captions).
CAPTION_CACHE = 8_192
_CACHED_CHARACTERS = 500
_HELD_BATCHES = 32

Vectors = npt.NDArray[np.float32]


class Unembedded(NamedTuple):
    """Rows to embed. embed : False for rows (copies) that are decoded for outcome and size only."""

    tag: Any
    images: Sequence[bytes | None]
    captions: Sequence[str | None]
    embed: Sequence[bool] | None = None


@dataclass(frozen=True)
class Embedded:
    """What became of the rows of one `Unembedded`; everything has one entry per row.

    outcome : a key of `schema.OUTCOMES`, reason why it is not ok. width, height : as shown, where known.
    image, text : (n, dim) float16, unit length, NaN where there is none. has_image, has_text : (n,) which
    rows have one: image where the outcome is ok and the row was to be embedded, text where it has a
    caption besides (white space is none).
    """

    tag: Any
    outcome: list[str]
    reason: list[str | None]
    width: list[int | None]
    height: list[int | None]
    image: npt.NDArray[np.float16]
    text: npt.NDArray[np.float16]
    has_image: npt.NDArray[np.bool_]
    has_text: npt.NDArray[np.bool_]


def default_decode_workers(device: str, cores: int | None = None) -> int:
    """Return how many decode workers keep a model on `device` busy; cores : None is all of this machine."""
    cores = cpu_count() if cores is None else cores
    return max(1, cores // 2) if device == "cpu" else max(1, cores - 1)


def embed_rows(
    batches: Iterable[Unembedded], clip: Clip, pool: DecodePool, *, threads: int | None = None
) -> Iterator[Embedded]:
    """Yield one `Embedded` per batch, in order; a few batches are held back to fill the model's.

    threads : cores the model may use on a CPU (default: as many as torch uses). Forward passes then run
    beside each other on one core each: that needs no barriers between threads, which cost most when
    decode workers use the same cores, and gives the same results on any number of cores.
    """
    held: deque[_Held] = deque()

    def sources() -> Iterator[tuple[Unembedded, Sequence[bytes | None]]]:
        for batch in batches:
            yield batch._replace(images=()), batch.images  # what waits for the model holds no encoded images

    with _Streams(clip, threads) as streams:
        images = _Gather(clip.batch_size, lambda one, rows: one.encode_images(np.stack(rows)), streams)
        texts = _Captions(clip.batch_size, lambda one, rows: one.encode_texts(rows), streams)
        for batch, decoded in pool.map(sources()):
            held.append(_Held(batch.tag, decoded, clip.dim))
            _hand_over(batch, held[-1], images, texts)
            if sum(len(each.decoded) for each in held) > _HELD_BATCHES * clip.batch_size:
                images.flush()  # captions are so rare that one batch of them never fills
                texts.flush()
                streams.drain()
            while held and held[0].waiting == 0:
                yield held.popleft().finish()
        images.flush()
        texts.flush()
        streams.drain()
        while held:
            yield held.popleft().finish()


@dataclass
class _Held:
    """A batch whose vectors are still being made."""

    tag: Any
    decoded: list[Decoded]
    dim: int
    waiting: int = 0
    image: Vectors = field(init=False)
    text: Vectors = field(init=False)
    asked_image: npt.NDArray[np.bool_] = field(init=False)
    asked_text: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.decoded)
        self.image, self.text = (np.full((n, self.dim), np.nan, np.float32) for _ in range(2))
        self.asked_image, self.asked_text = np.zeros(n, bool), np.zeros(n, bool)

    def finish(self) -> Embedded:
        """Return the result; a row with a vector that is not finite is unusable as a whole."""
        outcome = [row.outcome for row in self.decoded]
        reason = [row.reason for row in self.decoded]
        for what, asked, vectors in (
            ("caption", self.asked_text, self.text),
            ("image", self.asked_image, self.image),
        ):
            for row in np.flatnonzero(asked & ~np.isfinite(vectors).all(axis=1)):
                outcome[row], reason[row] = "bad_vector", f"the model gives no finite vector for the {what}"
        usable = np.array([each == "ok" for each in outcome], bool)
        has_image, has_text = self.asked_image & usable, self.asked_text & usable
        self.image[~has_image] = np.nan
        self.text[~has_text] = np.nan
        return Embedded(
            tag=self.tag,
            outcome=outcome,
            reason=reason,
            width=[row.width for row in self.decoded],
            height=[row.height for row in self.decoded],
            image=self.image.astype(np.float16),
            text=self.text.astype(np.float16),
            has_image=has_image,
            has_text=has_text,
        )


def _hand_over(batch: Unembedded, held: _Held, images: "_Gather", texts: "_Captions") -> None:
    """Queue the usable rows of a batch for the model."""
    for row, (decoded, caption) in enumerate(zip(held.decoded, batch.captions, strict=True)):
        if decoded.array is None or (batch.embed is not None and not batch.embed[row]):
            continue
        held.asked_image[row] = True
        images.add(decoded.array, _Place(held, held.image, row))
        if caption is not None and not caption.isspace() and caption:
            held.asked_text[row] = True
            texts.add(caption, _Place(held, held.text, row))
    held.decoded = [row._replace(array=None) for row in held.decoded]  # the pixels are queued


class _Place(NamedTuple):
    """Where a vector belongs."""

    held: _Held
    vectors: Vectors
    row: int


class _Streams:
    """Runs forward passes in threads: one per core on a CPU; two per GPU, so that one batch is copied while one is computed."""

    def __init__(self, clip: Clip, threads: int | None) -> None:
        on_cpu, models = clip.device == "cpu", (clip, *clip.replicas)
        self._count = max(threads or torch.get_num_threads(), len(models)) if on_cpu else 2 * len(models)
        self._free: SimpleQueue[Clip] = SimpleQueue()
        for turn in range(self._count):
            self._free.put(models[turn % len(models)])
        self._threads = one_thread() if on_cpu else contextlib.nullcontext()
        self._pending: deque[tuple[Future[Vectors], Callable[[Vectors], None]]] = deque()

    def __enter__(self) -> Self:
        self._threads.__enter__()
        self._pool = ThreadPoolExecutor(self._count, thread_name_prefix="model")
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._threads.__exit__(None, None, None)

    def submit(self, work: Callable[[Clip], Vectors], deliver: Callable[[Vectors], None]) -> None:
        """Start `work` on the next model that is free; its result goes to `deliver` in the caller's thread, in order, at a later call."""
        self._pending.append((self._pool.submit(self._on_free, work), deliver))
        while len(self._pending) > self._count + 1 or (self._pending and self._pending[0][0].done()):
            self._deliver_first()

    def _on_free(self, work: Callable[[Clip], Vectors]) -> Vectors:
        model = self._free.get()  # there are as many as threads
        try:
            return work(model)
        finally:
            self._free.put(model)

    def drain(self) -> None:
        """Deliver all that was submitted, waiting for it."""
        while self._pending:
            self._deliver_first()

    def _deliver_first(self) -> None:
        future, deliver = self._pending.popleft()
        deliver(future.result())


class _Gather:
    """Collects rows of many batches until the model has a full one."""

    def __init__(self, size: int, encode: Callable[[Clip, list[Any]], Vectors], streams: _Streams) -> None:
        self._size, self._encode, self._streams = size, encode, streams
        self._rows: list[Any] = []
        self._places: list[_Place] = []

    def add(self, row: object, place: _Place) -> None:
        """Queue a row, whose vector goes to `place`; the model gets a batch once it is full."""
        place.held.waiting += 1
        self._rows.append(row)
        self._places.append(place)
        if len(self._rows) == self._size:
            self.flush()

    def flush(self) -> None:
        """Give the model the rows there are, full batch or not."""
        rows, places = self._rows, self._places
        self._rows, self._places = [], []
        if rows:
            self._streams.submit(lambda one: self._encode(one, rows), lambda vectors: _put(vectors, places))


class _Captions:
    """As `_Gather`, for captions: equal ones are embedded once."""

    def __init__(self, size: int, encode: Callable[[Clip, list[str]], Vectors], streams: _Streams) -> None:
        self._size, self._encode, self._streams = size, encode, streams
        self._places: dict[str, list[_Place]] = {}
        self._known: OrderedDict[str, Vectors] = OrderedDict()

    def add(self, caption: str, place: _Place) -> None:
        """Queue a caption, whose vector goes to `place`, at once where it is known."""
        known = self._known.get(caption)
        if known is not None:
            self._known.move_to_end(caption)
            place.vectors[place.row] = known
            return
        place.held.waiting += 1
        self._places.setdefault(caption, []).append(place)
        if len(self._places) == self._size:
            self.flush()

    def flush(self) -> None:
        """Give the model the captions there are, full batch or not."""
        asked, self._places = self._places, {}
        if asked:
            captions = list(asked)
            self._streams.submit(
                lambda one: self._encode(one, captions), lambda vectors: self._deliver(asked, vectors)
            )

    def _deliver(self, asked: dict[str, list[_Place]], vectors: Vectors) -> None:
        for (caption, places), vector in zip(asked.items(), vectors, strict=True):
            _put(np.broadcast_to(vector, (len(places), len(vector))), places)
            if len(caption) <= _CACHED_CHARACTERS:
                self._known[caption] = vector.copy()
        while len(self._known) > CAPTION_CACHE:
            self._known.popitem(last=False)


def _put(vectors: Vectors, places: Sequence[_Place]) -> None:
    for vector, (held, target, row) in zip(vectors, places, strict=True):
        target[row] = vector
        held.waiting -= 1
