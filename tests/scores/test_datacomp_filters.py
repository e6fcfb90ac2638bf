"""The filters of DataComp on a pool that is made: the subset files of runs against the published code, written down straight."""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from curate.errors import EmbeddingError, UsageError
from curate.linalg import unit_rows
from curate.pipeline import runner
from curate.pipeline.export import export_recipe, export_run
from curate.recipe.loading import parse_recipe
from curate.scores.in_memory import score
from curate.scores.mentions import plural_of, synonyms_of
from curate.scores.target_clusters import hits_of, read_centroids
from tests.fixtures.builders import DIM, planted

N = 240
NAMES = ["sports_car, sport car", "tabby", "church"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Metadata as DataComp has it: uids, captions, sizes and vectors; a language as another tool would add it."""
    folder = tmp_path_factory.mktemp("datacomp")
    rng = np.random.default_rng(0)
    words = ["a", "sports", "car", "tabby", "tabbies,", "churches", "photo", "of", "12", "Church"]
    frame = pl.DataFrame(
        {
            "uid": [f"{i * 2654435761 % 2**64:016x}{i:016x}" for i in range(N)],
            "url": [f"http://example.com/{i}.jpg" for i in range(N)],
            "text": [" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(N)],
            "original_width": rng.choice([120, 200, 260, 900], N),
            "original_height": rng.choice([120, 200, 260, 301], N),
            "lang": rng.choice(["en", "de"], N, p=[0.8, 0.2]),
        }
    )
    image, text = planted(N, seed=1), planted(N, seed=2)
    image[5] = image[4]  # DataComp judges every uid
    (folder / "metadata").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(N), 3)):
        pq.write_table(frame[rows.tolist()].to_arrow(), folder / "metadata" / f"{number:08d}.parquet")
        np.savez(folder / "metadata" / f"{number:08d}.npz", l14_img=image[rows], l14_txt=text[rows])
    target = planted(30, seed=1, clusters=12)[:9].astype(np.float32)
    np.save(folder / "target.npy", target)
    centroids = np.random.default_rng(3).standard_normal((25, DIM)) * np.linspace(0.4, 1.0, 25)[:, None]
    np.save(folder / "centroids.npy", centroids)
    (folder / "names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return folder, frame, image.astype(np.float64), text.astype(np.float64), target.astype(float), centroids


def subset(pool, name, conditions):
    """Run a recipe up to its decisions; return the subset file of what it keeps."""
    folder = pool[0]
    scores = [
        "clip_score",
        "caption",
        {"mentions": {"names": str(folder / "names.txt"), "name": "things"}},
        {
            "target_clusters": {
                "target": {"path": str(folder / "target.npy")},
                "centroids": str(folder / "centroids.npy"),
                "normalise": False,
            }
        },
    ]
    values = {
        "run": str(folder / "run"), "source": {"path": str(folder / "metadata")}, "score": scores, "filter": conditions,
        "embed": {"column": "l14_img", "text_column": "l14_txt"}, "cluster": {"concepts": 2}, "dedup": {"exact": False},
        "select": {"method": "all"}, "memory": "2GB", "workers": 1,
    }  # fmt: skip
    runner.run(parse_recipe(values), until="select")
    export_run(export_recipe(folder / "run"), "npy", folder / f"{name}.npy")
    return np.load(folder / f"{name}.npy")


def as_subset(frame, keep):
    """Return uids as DataComp's code does: two numbers each, sorted."""
    uids = frame.filter(pl.Series(np.asarray(keep)))["uid"]
    found = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in uids], np.dtype("u8,u8"))
    found.sort()
    return found


def basic(frame):
    width, height = frame["original_width"].to_numpy(), frame["original_height"].to_numpy()
    small, large = np.minimum(width, height), np.maximum(width, height)
    number, length = [len(one.split()) for one in frame["text"]], [len(one) for one in frame["text"]]
    words = (np.array(number) > 2) & (np.array(length) > 5)
    return (frame["lang"] == "en").to_numpy() & words & (small >= 200) & (large / small <= 3.0)


def image_based(frame, image, target, centroids):
    said = [len(one.split()) > 1 and len(one) > 5 for one in frame["text"]]
    reached = np.unique((target @ centroids.T).argmax(axis=1))
    return (
        (frame["lang"] == "en").to_numpy()
        & np.array(said)
        & np.isin((image @ centroids.T).argmax(axis=1), reached)
    )


def clip_score(image, text, share):
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in (image, text)]
    dots = (unit[0] * unit[1]).sum(axis=1)
    return np.isin(
        np.arange(N), np.argsort(-dots)[: round(share * N)]
    )  # exactly; the published code keeps one more


BASIC = [
    "lang = 'en'", "caption_n_words > 2 and caption_n_chars > 5", "source.original_width >= 200 and source.original_height >= 200",
    "source.original_width <= 3 * source.original_height and source.original_height <= 3 * source.original_width",
]  # fmt: skip
IMAGE = ["lang = 'en'", "caption_n_words > 1 and caption_n_chars > 5", "target_hits >= 1"]
TOP = {"by": "clip_score", "top": "30%", "of": "usable"}


def test_subset_files_are_those_of_the_published_code(pool):
    _, frame, image, text, target, centroids = pool
    reached = image_based(frame, image, target, centroids)
    top = clip_score(image, text, 0.3)
    wanted = {
        "basic": (BASIC, basic(frame)),
        "clip": ([TOP], top),
        "image": (IMAGE, reached),
        "both": ([*IMAGE, TOP], reached & top),
        "none": ([], np.ones(N, bool)),
    }
    for name, (conditions, keep) in wanted.items():
        want = as_subset(frame, keep)
        assert 0 < len(want) and (len(want) < N or name == "none"), name
        np.testing.assert_array_equal(subset(pool, name, conditions), want, err_msg=name)


def test_text_based_is_a_match_of_words(pool):
    frame = pool[1]
    things = [("tabby", "tabbies"), ("church", "churches"), ("sports car", "sports cars", "sport car")]

    def names(text):
        said = f" {text.lower().replace(',', ' , ')} ".replace("  ", " ")
        return any(f" {one} " in said for thing in things for one in thing)

    keep = [names(text) and lang == "en" for text, lang in frame.select("text", "lang").iter_rows()]
    want = as_subset(frame, keep)
    assert 0 < len(want) < N
    np.testing.assert_array_equal(subset(pool, "text", ["lang = 'en'", "things >= 1"]), want)


# --- mentions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plurals", [True, False])
def test_mentions_by_hand(tmp_path, plurals):
    (tmp_path / "names.json").write_text('["sports_car, sport car", "man", "Tabby"]', encoding="utf-8")
    texts = ["Sports cars and a sport car", "two men, a TABBY", "carsports", " ", None, "tabbys man"]
    frame = pl.DataFrame({"caption": texts}, schema={"caption": pl.String})
    asked = {"mentions": {"names": str(tmp_path / "names.json"), "plurals": plurals}}
    table = score(frame, asked)
    want = [1, 2, 0, None, None, 1] if plurals else [1, 1, 0, None, None, 1]
    assert table["mentions"].to_list() == want
    assert table["mentions_status"].to_list() == ["ok", "ok", "ok", "no_text", "no_text", "ok"]
    assert len(score(frame[:0], asked)) == 0


def test_names_and_their_plurals():
    assert synonyms_of("a_b,, c ,") == ["a b", "c"]
    assert [plural_of(one) for one in ("fox", "bay", "y", "wolf dog")] == ["foxes", "bays", "ys", "wolf dogs"]


# --- clusters of a target -----------------------------------------------------------------------------------------


def test_hits_by_hand():
    centroids = np.eye(3, dtype=np.float32)
    rows = np.array([[0.9, 0.1, 0.0], [0.8, 0.6, 0.0], [0.0, 0.6, 0.8], [0.7, 0.7, 0.0]], np.float32)
    assert hits_of(rows, centroids).tolist() == [3, 0, 1]  # the lowest id where equal
    with pytest.raises(EmbeddingError, match="target must hold at least one vector"):
        hits_of(rows[:0], centroids)


@pytest.mark.parametrize("normalise", [True, False])
def test_given_centroids_by_definition(tmp_path, normalise):
    centroids = np.random.default_rng(0).standard_normal((7, DIM)) * np.arange(1, 8)[:, None]
    np.save(tmp_path / "c.npy", centroids)
    half, target = planted(80), planted(5, seed=9)
    table = score(
        half,
        {
            "target_clusters": {
                "target": "t.npy",
                "centroids": str(tmp_path / "c.npy"),
                "normalise": normalise,
            }
        },
        target=target,
    )
    compared = unit_rows(centroids)[0] if normalise else centroids
    cluster = (half.astype(float) @ compared.T).argmax(axis=1)
    hits = np.bincount((target.astype(float) @ compared.T).argmax(axis=1), minlength=7)
    assert table["target_cluster"].to_list() == cluster.tolist()
    assert table["target_hits"].to_list() == hits[cluster].tolist()
    assert len(score(half[:0], {"target_clusters": {"target": "t.npy", "centroids": str(tmp_path / "c.npy")}}, target=target)) == 0  # fmt: skip


def test_concepts_are_the_clusters_where_none_are_given(pool, tmp_path):
    """More rows in the target never take a sample out; the clusters are those of the run."""
    folder = pool[0]
    for name, rows in (("few", 2), ("many", 9)):
        np.save(tmp_path / f"{name}.npy", np.load(folder / "target.npy")[:rows])
    kept = {}
    for name in ("few", "many"):
        values = {
            "run": str(tmp_path / "run"), "source": {"path": str(folder / "metadata")}, "embed": {"column": "l14_img"},
            "score": [{"target_clusters": {"target": {"path": str(tmp_path / f"{name}.npy")}}}], "cluster": {"concepts": 30},
            "dedup": {"exact": False}, "select": {"method": "all"}, "memory": "2GB", "workers": 1,
        }  # fmt: skip
        runner.run(parse_recipe(values), until="score")
        table = pl.read_parquet(tmp_path / "run/3_scores/target_clusters/*.parquet")
        own = pl.read_parquet(tmp_path / "run/2_concepts/assignments/*.parquet")
        assert (
            table.join(own, on="uid", validate="1:1")
            .select((pl.col("target_cluster") == pl.col("concept")).all())
            .item()
        )
        kept[name] = set(table.filter(pl.col("target_hits") >= 1)["uid"])
    assert 0 < len(kept["few"]) < len(kept["many"]) < N
    assert kept["few"] <= kept["many"]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4)), "row 0 is zero or not finite"),
        (np.ones(4), r"must hold floats \(K, d\), got float64 \(4,\)"),
        (np.ones((2, 3), int), "got int64"),
    ],
)
def test_centroids_that_are_none(tmp_path, array, message):
    np.save(tmp_path / "c.npy", array)
    with pytest.raises(UsageError, match=message):
        read_centroids(tmp_path / "c.npy", normalise=True)
    with pytest.raises(UsageError, match="there is no file"):
        read_centroids(tmp_path / "d.npy", normalise=True)


def test_what_is_refused(tmp_path):
    half = planted(4)
    with pytest.raises(UsageError, match="goes by the concepts of a run; in memory, give centroids"):
        score(half, {"target_clusters": {"target": "t.npy"}}, target=half)
    np.save(tmp_path / "c.npy", np.ones((2, 5)))
    with pytest.raises(EmbeddingError, match="centroids must have 16 numbers"):
        score(
            half, {"target_clusters": {"target": "t.npy", "centroids": str(tmp_path / "c.npy")}}, target=half
        )
