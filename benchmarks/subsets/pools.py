"""Pools with known faults, made from data that is at hand: which labels are wrong and which rows are copies is known.

Fashion-MNIST pools come from the last 30,000 training pictures (the tiny CLIP was trained on the others) and are judged
on its 10,000 test pictures. `clothing` and `emoji` are taken as they are, but for captions that are shuffled.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

__all__ = ["POOLS", "Pool", "make"]

Pixels = np.ndarray


@dataclass(frozen=True)
class Pool:
    """Rows to choose from, and the rows that judge a choice.

    images, test_images : encoded pictures. labels, test_labels : names of classes; empty for pairs. captions,
    test_captions : empty where rows have labels. wrong : which labels or captions are wrong. copy_of : the row
    of which a row is a copy, -1 for none. vectors, test_vectors : (n, d), where the model's own are not used.
    """

    name: str
    seed: int
    images: list[bytes]
    test_images: list[bytes]
    labels: list[str] = field(default_factory=list)
    test_labels: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    test_captions: list[str] = field(default_factory=list)
    wrong: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    copy_of: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    vectors: np.ndarray | None = None
    test_vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def uids(self) -> list[str]:
        """Names of the rows."""
        return [f"{row:06d}" for row in range(len(self))]


# --- Fashion-MNIST -------------------------------------------------------------------------------------------------


def _fashion(data: Path, name: str, seed: int, size: int = 6000) -> Pool:
    """Return training pictures, the same number of each class, and all test pictures."""
    rows = pl.concat(
        pl.read_parquet(path) for path in sorted((data / "fashion_mnist").glob("train-0000[345]-*.parquet"))
    )
    test = pl.read_parquet(next((data / "fashion_mnist").glob("test-*.parquet")))
    label = rows["label"].to_numpy()
    rng = np.random.default_rng([seed, 1])
    chosen = np.concatenate(
        [rng.choice(np.flatnonzero(label == one), size // 10, replace=False) for one in range(10)]
    )
    chosen = rng.permutation(chosen)
    images = rows["image"].struct.field("bytes").gather(chosen).to_list()
    return Pool(
        name, seed, images, test["image"].struct.field("bytes").to_list(),
        labels=[str(label[row]) for row in chosen],
        test_labels=[str(one) for one in test["label"].to_list()],
        wrong=np.zeros(size, bool), copy_of=np.full(size, -1),
    )  # fmt: skip


def pixels(images: list[bytes]) -> Pixels:
    """Return grey pictures of one size, (n, height, width) uint8."""
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("L")) for image in images])


def _png(picture: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def _take(pool: Pool, rows: np.ndarray) -> Pool:
    """Return some rows of a pool; none of them a copy."""
    return replace(
        pool, images=[pool.images[row] for row in rows], labels=[pool.labels[row] for row in rows],
        wrong=pool.wrong[rows], copy_of=np.full(len(rows), -1),
    )  # fmt: skip


def _relabelled(pool: Pool, rows: np.ndarray, others: np.ndarray) -> Pool:
    """Return the pool with other labels in some rows, which are wrong then."""
    labels, wrong = list(pool.labels), pool.wrong.copy()
    for row, other in zip(rows.tolist(), others.tolist(), strict=True):
        labels[row], wrong[row] = str(other), True
    return replace(pool, labels=labels, wrong=wrong)


def symmetric(pool: Pool, share: float) -> Pool:
    """Give a share of the rows another class, each of the others alike."""
    rng = np.random.default_rng([pool.seed, 2])
    rows = rng.choice(len(pool), round(share * len(pool)), replace=False)
    own = np.array(pool.labels, np.int64)[rows]
    return _relabelled(pool, rows, (own + rng.integers(1, 10, len(rows))) % 10)


def pair_flip(pool: Pool, share: float) -> Pool:
    """Give a share of the rows the class after their own."""
    rng = np.random.default_rng([pool.seed, 3])
    rows = rng.choice(len(pool), round(share * len(pool)), replace=False)
    return _relabelled(pool, rows, (np.array(pool.labels, np.int64)[rows] + 1) % 10)


def human_like(pool: Pool, share: float, data: Path) -> Pool:
    """Give a share of the rows the class that a weak observer confuses theirs with.

    The observer has seen 300 other pictures. Rows are drawn with odds that grow with how likely it finds the other
    class, so that noise depends on the pair of classes and on the picture, as that of people does.
    """
    rng = np.random.default_rng([pool.seed, 4])
    seen = pl.read_parquet(next((data / "fashion_mnist").glob("train-00000-*.parquet")))
    rows = rng.choice(len(seen), 300, replace=False)
    pictures = pixels(seen["image"].struct.field("bytes").gather(rows).to_list()).reshape(300, -1) / 255
    project = PCA(20, random_state=0).fit(pictures)
    observer = LogisticRegression(max_iter=1000, C=0.3).fit(
        project.transform(pictures), seen["label"].gather(rows).to_numpy()
    )
    odds = observer.predict_proba(project.transform(pixels(pool.images).reshape(len(pool), -1) / 255))
    own = np.array(pool.labels, np.int64)
    believed = odds[np.arange(len(pool)), own].copy()
    odds[np.arange(len(pool)), own] = 0
    other, likely = odds.argmax(axis=1), odds.max(axis=1)
    gain = np.log(likely + 1e-9) - np.log(believed + 1e-9) + 2 * rng.gumbel(size=len(pool))
    wrong = np.argsort(-gain, kind="stable")[: round(share * len(pool))]
    return _relabelled(pool, wrong, other[wrong])


def long_tail(pool: Pool, ratio: float) -> Pool:
    """Keep fewer rows of each next class, the last with 1 / ratio of the first; which class is which is drawn."""
    rng = np.random.default_rng([pool.seed, 5])
    label = np.array(pool.labels, np.int64)
    rows: list[np.ndarray] = []
    for place, one in enumerate(rng.permutation(10).tolist()):
        here = np.flatnonzero(label == one)
        rows.append(rng.choice(here, max(round(len(here) * ratio ** (-place / 9)), 2), replace=False))
    return _take(pool, np.sort(np.concatenate(rows)))


def with_copies(pool: Pool, share: float, originals: int = 60) -> Pool:
    """Put shifted (up to 2 pixels), brightened copies of some rows in the place of others; few have most of them.

    A copy has the label of its row in the pool, right or wrong.
    """
    rng = np.random.default_rng([pool.seed, 6])
    n_copies = round(share * len(pool))
    order = rng.permutation(len(pool))
    sources, replaced = order[:originals], order[originals : originals + n_copies]
    weight = 1 / np.arange(1, originals + 1)
    drawn = rng.choice(sources, n_copies, p=weight / weight.sum())
    images, labels = list(pool.images), list(pool.labels)
    wrong, copy_of = pool.wrong.copy(), pool.copy_of.copy()
    pictures = pixels([pool.images[row] for row in sources])
    place = {row: number for number, row in enumerate(sources.tolist())}
    for row, source in zip(replaced.tolist(), drawn.tolist(), strict=True):
        down, right = rng.integers(-2, 3, 2)
        moved = np.roll(pictures[place[source]], (down, right), (0, 1)).astype(float)
        images[row] = _png(np.clip(moved * rng.uniform(0.85, 1.15), 0, 255).astype(np.uint8))
        labels[row], wrong[row], copy_of[row] = pool.labels[source], pool.wrong[source], source
    return replace(pool, images=images, labels=labels, wrong=wrong, copy_of=copy_of)


# --- clothing and emoji ----------------------------------------------------------------------------------------------


def _clothing(data: Path, name: str, seed: int) -> Pool:
    """Return the clothing photos with vectors of another model, 256 principal directions of the training rows."""
    train = pl.concat(pl.read_parquet(path) for path in sorted((data / "clothing").glob("train-*.parquet")))
    test = pl.concat(
        pl.read_parquet(next((data / "clothing").glob(f"{split}-*.parquet")))
        for split in ("validation", "test")
    )
    vectors = np.load(data / "clothing_vectors" / "train.npy").astype(np.float32)
    others = np.load(data / "clothing_vectors" / "validation_then_test.npy").astype(np.float32)
    project = PCA(256, random_state=0).fit(vectors)
    return Pool(
        name, seed, _bytes(train), _bytes(test), labels=_texts(train), test_labels=_texts(test),
        wrong=np.zeros(len(train), bool), copy_of=np.full(len(train), -1),
        vectors=project.transform(vectors), test_vectors=project.transform(others),
    )  # fmt: skip


def _bytes(frame: pl.DataFrame) -> list[bytes]:
    column = frame["image"]
    return (column.struct.field("bytes") if column.dtype == pl.Struct else column).to_list()


def _texts(frame: pl.DataFrame) -> list[str]:
    return [str(one) for one in frame["label"].to_list()]


def _emoji(data: Path, name: str, seed: int, share: float = 0.29) -> Pool:
    """Return 3,000 pairs of which a share has the caption of another, and 530 pairs that judge."""
    frame = pl.concat(pl.read_parquet(path) for path in sorted((data / "noto_emoji").glob("*.parquet")))
    rng = np.random.default_rng([seed, 7])
    order = rng.permutation(len(frame))
    train, test = order[:3000], order[3000:]
    captions = frame["caption"].to_list()
    images = _bytes(frame)
    given = [captions[row] for row in train]
    shuffled = rng.choice(3000, round(share * 3000), replace=False)
    moved = np.roll(shuffled, 1)
    for row, other in zip(shuffled.tolist(), moved.tolist(), strict=True):
        given[row] = captions[train[other]]
    wrong = np.array([given[place] != captions[row] for place, row in enumerate(train.tolist())])
    return Pool(
        name, seed, [images[row] for row in train], [images[row] for row in test], captions=given,
        test_captions=[captions[row] for row in test], wrong=wrong, copy_of=np.full(3000, -1),
    )  # fmt: skip


POOLS: dict[str, Callable[[Path, str, int], Pool]] = {
    "clean": _fashion,
    "noise 20 %": lambda data, name, seed: symmetric(_fashion(data, name, seed), 0.2),
    "noise 40 %": lambda data, name, seed: symmetric(_fashion(data, name, seed), 0.4),
    "pair flip 20 %": lambda data, name, seed: pair_flip(_fashion(data, name, seed), 0.2),
    "human-like 20 %": lambda data, name, seed: human_like(_fashion(data, name, seed), 0.2, data),
    "copies 30 %": lambda data, name, seed: with_copies(_fashion(data, name, seed), 0.3),
    "tail 100:1": lambda data, name, seed: long_tail(_fashion(data, name, seed, 20_000), 100),
    "all three": lambda data, name, seed: with_copies(
        symmetric(long_tail(_fashion(data, name, seed, 15_000), 20), 0.2), 0.3
    ),
    "clothing": _clothing,
    "emoji": _emoji,
    "emoji, right captions": lambda data, name, seed: _emoji(data, name, seed, 0.0),
}


def make(name: str, seed: int, data: Path) -> Pool:
    """Return a pool; another seed draws other rows and other faults."""
    return POOLS[name](data, name, seed)
