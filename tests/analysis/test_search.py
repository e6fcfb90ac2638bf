"""`curate search`: the nearest samples against brute force, by text, image, vector and uid, and clear refusals."""

import errno
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import open_run
from curate.analysis import nearest as nearby
from curate.analysis.search import Query, search
from curate.api.sample import sample_path
from curate.embedding import store
from curate.errors import UsageError
from curate.io import storage
from curate.linalg import load_unit, row_dots, unit_rows
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from tests.fixtures.builders import planted, recipe_values, write_shards
from tests.fixtures.calls import curate

N = 300


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A finished run on own vectors of images and captions; s000290 to s000299 are copies of the first ten."""
    folder = tmp_path_factory.mktemp("own")
    vectors = planted(N, copies=10)
    words = [None if i % 5 == 0 else row.tolist() for i, row in enumerate(planted(N, seed=1))]
    extra = {"words": words, "caption": [f"caption {i % (N - 10)}\n\x1b[31m" for i in range(N)]}
    glob = write_shards(folder / "in", vectors, extra=extra)
    values = recipe_values(glob, folder / "run", embed={"column": "embedding", "text_column": "words"})
    runner.run(parse_recipe(values))
    np.save(folder / "query.npy", planted(1, seed=7)[0].astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A run on thirty pictures by the model that ships, up to its concepts."""
    folder = tmp_path_factory.mktemp("seen")
    values = {
        "run": str(folder / "run"), "workers": 1, "memory": "2GB", "select": {"keep": 0.5},
        "source": {"path": f"{sample_path()}/train-00000-*.parquet", "limit": 30}, "embed": {"model": "tiny"},
        "cluster": {"concepts": 3},
    }  # fmt: skip
    runner.run(parse_recipe(values), until="cluster")
    return folder


def stored(run, column="image"):
    """All vectors of a run as (uids, unit rows), those that are null left out."""
    frame = pl.concat([pl.read_ipc(path) for path in sorted(run.folder.embeddings.glob("part-*"))])
    frame = frame.filter(pl.col(column).is_not_null())
    return frame["uid"].to_list(), load_unit(frame[column].to_numpy())


def brute(run, query, column="image", allowed=None):
    """Every (uid, similarity) in order, one float64 product after the other."""
    uids, vectors = stored(run, column)
    dots = row_dots(vectors, query[None, :])
    found = [
        (uid, dot) for uid, dot in zip(uids, dots.tolist(), strict=True) if allowed is None or uid in allowed
    ]
    return sorted(found, key=lambda one: (-one[1], one[0]))


def query_of(own):
    return unit_rows(np.load(own / "query.npy")[None, :])[0][0]


def answers(found):
    return list(found.select("uid", "similarity").iter_rows())


@pytest.mark.parametrize("top", [1, 17, N])
@pytest.mark.parametrize("column", ["image", "text"])
def test_the_nearest_are_those_of_brute_force(own, top, column):
    run = open_run(own / "run")
    found = search(own / "run", Query(vector=own / "query.npy"), top=top, on=column)
    wanted = brute(run, query_of(own), column)[:top]
    assert answers(found) == wanted
    assert len(found) == min(top, N - 10 if column == "image" else len(stored(run, "text")[0]))


def test_only_those_of_a_concept_or_decision(own):
    run = open_run(own / "run")
    scores = run.decisions().filter(pl.col("concept").is_not_null())
    for keep in (True, False):
        uids = set(scores.filter(pl.col("keep") == keep)["uid"])
        found = search(own / "run", Query(vector=own / "query.npy"), kept=keep)
        assert answers(found) == brute(run, query_of(own), allowed=uids)[:20]
        assert set(found["keep"]) == {keep}
    uids = set(run.scores().filter(pl.col("concept") == 2)["uid"])
    found = search(own / "run", Query(vector=own / "query.npy"), concept=2, top=N)
    assert answers(found) == brute(run, query_of(own), allowed=uids)


def test_equal_ones_go_by_uid(tmp_path):
    vectors = np.tile(planted(1), (40, 1))
    vectors[:5] = planted(5, seed=3)
    order = np.random.default_rng(0).permutation(40)
    glob = write_shards(tmp_path / "in", vectors, order=order)
    values = recipe_values(glob, tmp_path / "run", dedup={"exact": False})
    runner.run(parse_recipe(values), until="embed")
    found = search(tmp_path / "run", Query(uid="s000020"), top=10)
    same = [f"s{i:06d}" for i in range(5, 40) if i != 20][:10]
    assert found["uid"].to_list() == same
    assert found["similarity"].n_unique() == 1


def test_what_is_told_of_a_sample(own):
    run = open_run(own / "run")
    found = search(own / "run", Query(uid="s000007"), top=30)
    columns = ["uid", "concept", "keep", "reason", "shard", "row"]
    decided = run.decisions().filter(pl.col("occurrence") == 0).select(columns)
    captions = run.samples().select("uid", "caption")
    wanted = found.select("uid").join(decided, on="uid", how="left", maintain_order="left").join(
        captions, on="uid", how="left", maintain_order="left"
    )  # fmt: skip
    # A near-duplicate has no concept in the decisions; its assignment has one.
    both = found.join(run.scores().select("uid", assigned="concept"), on="uid", how="left")
    assert both["concept"].to_list() == both["assigned"].to_list()
    names = ["uid", "keep", "reason", "caption", "shard", "row"]
    assert found.select(names).rows() == wanted.select(names).rows()
    assert "s000007" not in found["uid"]


def test_more_like_a_copy_is_more_like_its_first(own):
    first, copy = (
        open_run(own / "run")
        .samples()
        .filter(pl.col("copy_of").is_not_null())
        .select("copy_of", "uid")
        .row(0)
    )
    found = search(own / "run", Query(uid=copy), top=3)
    assert found["uid"][0] == first
    assert found["similarity"][0] == pytest.approx(1.0)


def test_the_command_shows_and_says_as_data(own):
    said = curate("search", own / "run", "--uid", "s000001", "--top", "3")
    assert (said.code, said.err) == (0, "")
    header, *lines = said.out.splitlines()
    assert header.split() == ["similarity", "uid", "concept", "decision", "caption", "where"]
    assert len(lines) == 3
    assert "\x1b" not in said.out
    rows = json.loads(curate("search", own / "run", "--uid", "s000001", "--top", "3", "--json").out)
    for row, line in zip(rows, lines, strict=True):
        assert line.split()[:4] == [
            f"{row['similarity']:.4f}",
            row["uid"],
            str(row["concept"]),
            row["reason"],
        ]
        assert line.endswith(f"{row['shard']}:{row['row']}")


def judged(folder, names, compete=True):
    """Relevance of all images to some names, {(name, uid): (relevance before the curve, cosine, surplus)}, from the definition."""
    from curate.analysis.retrieval.ground import TEMPLATES
    from curate.embedding import clip as clips
    from curate.embedding.taught import taught_words
    from curate.retrieval.things import THINGS
    from curate.retrieval.words import unknown_share

    clip = clips.load("tiny", device="cpu", precision="float32")
    known = taught_words(clip, THINGS)

    run = open_run(folder)
    labels = run.samples().filter(pl.col("outcome") == "ok")["label"].unique()
    classes = sorted(run.folder.class_names()[label] for label in labels if label is not None)
    asked, names = len(names), [*names, *(one for one in classes if compete and one not in names)]
    things = [text for text in THINGS if unknown_share(text, known) == 0]
    every = [*names, *things]
    texts = clip.encode_texts([one.format(text) for text in every for one in TEMPLATES])
    texts = unit_rows(texts.reshape(len(every), len(TEMPLATES), -1).mean(1))[0].astype(float)
    uids, images = stored(open_run(folder))
    cosines = texts @ images.astype(float).T
    lifts = np.exp(cosines / clip.temperature)
    lifts /= lifts.mean(1, keepdims=True)
    found = {}
    for at, uid in enumerate(uids):
        rest = np.mean([lifts[len(names) + text, at] for text in range(len(things))])
        nearest = np.mean(sorted(cosines[len(names) :, at], reverse=True)[:10])
        for number, name in enumerate(names[:asked]):
            rivals = sum(lifts[other, at] for other in range(len(names))) if compete else lifts[number, at]
            cosine = cosines[number, at]
            found[name, uid] = (lifts[number, at] / (rivals + rest), cosine, cosine - nearest)
    return found


def test_a_text_finds_what_is_relevant(seen):
    said = curate("search", seen / "run", "umbrella", "--json", "--top", "30", "--threshold", "0")
    assert said.code == 0, said.err
    rows = json.loads(said.out)
    wanted = judged(seen / "run", ["umbrella"], compete=False)
    assert len(rows) == len(wanted) == 30
    for row in rows:  # captions have an umbrella: the curve takes nothing away
        relevance, cosine, _ = wanted["umbrella", row["uid"]]
        assert row["relevance"] == pytest.approx(relevance, abs=1e-5)
        assert row["similarity"] == pytest.approx(cosine, abs=1e-5)
    assert [row["relevance"] for row in rows] == sorted((row["relevance"] for row in rows), reverse=True)
    assert all("umbrella" in row["caption"] for row in rows[:2])
    assert all(row["reason"] is None for row in rows), "nothing is decided yet"
    at_half = search(seen / "run", Query("umbrella"), top=30)
    assert len(at_half) == sum(row["relevance"] >= 0.5 for row in rows)


@pytest.mark.parametrize(
    "text", ["a submarine in quantum foam", "asdf qwer", "a black hole", "a red stop sign", "?!"]
)
def test_nothing_fits(seen, text):
    said = curate("search", seen / "run", text)
    assert said.code == 0 and f"nothing fits {text!r}" in said.err, said.err
    assert len(search(seen / "run", Query(text))) == 0
    assert len(search(seen / "run", Query(text), threshold=0.0, top=3)) == 3, (
        "on demand the best of what there is"
    )


def test_the_chance_that_something_fits_counts(seen):
    from curate.analysis.retrieval.ground import ground_of, relevant
    from curate.analysis.search import text_model

    folder = open_run(seen / "run").folder
    ground = ground_of(folder, text_model(folder))
    [answer] = relevant(ground, ["a dog"], threshold=0.01, compete=False)
    wanted = {uid: values for (_, uid), values in judged(seen / "run", ["a dog"], compete=False).items()}
    chance = 1 / (
        1 + np.exp(-ground.curve.slope * (max(s for _, _, s in wanted.values()) - ground.curve.middle))
    )
    assert answer.fits == pytest.approx(chance, abs=1e-4) and answer.fits < 0.5
    for uid, relevance in answer.rows.select("uid", "relevance").iter_rows():
        assert relevance == pytest.approx(wanted[uid][0] * chance / (1 - chance), abs=1e-4)


def test_names_compete_and_are_written(seen, tmp_path):
    names = ["umbrella", "house", "sunset", "a black hole"]
    (tmp_path / "names.txt").write_text("# things\numbrella\n\nhouse\nsunset\na black hole\n")
    said = curate(
        "retrieve", seen / "run", "--concepts", tmp_path / "names.txt", "--out", tmp_path / "out", "--json"
    )
    assert said.code == 0, said.err
    rows = pl.read_parquet(tmp_path / "out/retrieved.parquet")
    assert rows.columns == ["uid", "concept", "relevance", "cosine", "rank"]
    wanted = judged(seen / "run", names)
    for uid, concept, relevance, cosine, _ in rows.iter_rows():
        assert (relevance, cosine) == pytest.approx(wanted[concept, uid][:2], abs=1e-5)
    for name in names[:3]:
        mine = rows.filter(pl.col("concept") == name)
        assert len(mine) == sum(value[0] >= 0.5 for (one, _), value in wanted.items() if one == name) > 0
        assert mine["rank"].to_list() == list(range(1, len(mine) + 1)) and mine["relevance"].is_sorted(
            descending=True
        )
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "out/uids").iterdir()}
    assert (
        sorted(lists) == ["0-umbrella", "1-house", "2-sunset", "3-a_black_hole"]
        and lists["3-a_black_hole"] == []
    )
    assert lists["1-house"] == rows.filter(pl.col("concept") == "house")["uid"].to_list()
    # Labels of these names are there: what is said of them is counted.
    truth = dict(open_run(seen / "run").samples().select("uid", "label").iter_rows())
    classes = open_run(seen / "run").folder.class_names()
    told = {row["concept"]: row for row in json.loads(said.out)["concepts"]}
    of_class = {uid for uid, label in truth.items() if classes[label] == "house"}
    assert told["house"]["labelled"] == len(of_class)
    assert told["house"]["right"] == len(of_class & set(lists["1-house"]))
    assert told["a black hole"]["labelled"] is None and told["a black hole"]["why_empty"]
    # Written again it is replaced; a folder of somebody else's is not.
    assert (
        curate("retrieve", seen / "run", "--concepts", tmp_path / "names.txt", "--out", tmp_path / "out").code
        == 0
    )
    (tmp_path / "out/mine.txt").write_text("x")
    refused = curate(
        "retrieve", seen / "run", "--concepts", tmp_path / "names.txt", "--out", tmp_path / "out"
    )
    assert refused.code == 2 and "holds other files" in refused.err


def test_top_precision_and_names_by_themselves(seen):
    run = open_run(seen / "run")
    few = run.retrieve(["umbrella", "house"], top=2)
    assert few.concepts["found"].to_list() == [2, 2]
    every = run.retrieve(["umbrella", "house"], threshold=0.05)
    strict = run.retrieve(["umbrella", "house"], precision=0.9)
    assert strict.rows["relevance"].mean() >= 0.9
    more = every.rows.filter(pl.col("relevance") < strict.threshold)["relevance"].max()
    both = every.rows.filter(pl.col("relevance") >= more)["relevance"]
    assert both.mean() < 0.9, "one more would be too many"
    alone = run.retrieve(["house", "building"], compete=False, threshold=0.05)
    rivals = run.retrieve(["house", "building"], threshold=0.05)
    one, other = (
        found.rows.filter(pl.col("concept") == "house").select("uid", "relevance")
        for found in (alone, rivals)
    )
    joined = other.join(one, on="uid")
    assert len(joined) and (joined["relevance"] <= joined["relevance_right"] + 1e-6).all()
    # The same with what was stored and with what is made anew.
    (run.folder.work / "relevance.json").unlink()
    assert run.retrieve(["umbrella", "house"], threshold=0.05).rows.equals(every.rows)


def test_a_run_that_cannot_be_written_is_searched_all_the_same(seen, monkeypatch):
    run = open_run(seen / "run")
    before = run.retrieve(["umbrella", "house"])
    (run.folder.work / "relevance.json").unlink()

    def refuse(path):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_sync", refuse)
        assert run.retrieve(["umbrella", "house"]).rows.equals(before.rows)
    assert not (run.folder.work / "relevance.json").exists()


@pytest.mark.parametrize(
    "names, options, said",
    [
        ([], {}, "at least one name"), (["a", " "], {}, "not empty"), (["Long sleeve", "long-sleeve"], {}, "each name once"),
        (["a"], {"threshold": 0.0}, r"--threshold must be in \(0, 1\], got 0"), (["a"], {"top": 0}, "--top must be at least 1"),
        (["a"], {"precision": 1.0}, r"--precision must be in \(0, 1\)"), (["a"], {"threshold": 0.5, "precision": 0.5}, "one of"),
        ("no-such-file.txt", {}, "no-such-file.txt cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_retrieved(seen, names, options, said):
    with pytest.raises(UsageError, match=said):
        open_run(seen / "run").retrieve(names, **options)


def test_a_vocabulary_names_concepts(seen, tmp_path):
    run = open_run(seen / "run")
    (tmp_path / "names.txt").write_text("house\numbrella\nsunset\ncar\nfish\n")
    said = curate("name", seen / "run", "--vocabulary", tmp_path / "names.txt", "--json")
    assert said.code == 0, said.err
    names = json.loads(said.out)
    assert len(names) == 3 and len(set(names.values())) == 3
    assert json.loads(run.folder.concept_names.read_text())["by"] == "vocabulary"
    with pytest.raises(UsageError, match="cannot be read"):
        run.name_concepts(tmp_path / "none.txt")


def test_names_need_a_model(own):
    with pytest.raises(UsageError, match="has vectors of its own"):
        open_run(own / "run").retrieve(["a"])


def test_an_image_finds_itself(seen, tmp_path):
    run = open_run(seen / "run")
    sample = (
        run.samples().filter((pl.col("outcome") == "ok") & pl.col("copy_of").is_null()).row(4, named=True)
    )
    shard = next(sample_path().glob(f"{sample['shard']}"))
    picture = pq.read_table(shard, columns=["image"])["image"][sample["row"]].as_py()
    file = tmp_path / "picture"
    file.write_bytes(picture["bytes"])
    found = search(seen / "run", Query(image=file), top=1)
    assert found["uid"].to_list() == [sample["uid"]]
    assert found["similarity"][0] == pytest.approx(1.0, abs=1e-3), "stored in half precision"


def test_weights_that_are_gone_or_others(seen, tmp_path):
    import shutil

    from curate.io.yaml import read_yaml

    run = shutil.copytree(seen / "run", tmp_path / "run")
    recipe = read_yaml((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["embed"] |= {"model": "ViT-B-32", "pretrained": str(tmp_path / "weights.pt")}
    (run / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    said = curate("search", run, "a cat")
    assert said.code == 1
    assert f"pretrained '{tmp_path / 'weights.pt'}' is neither a file nor weights of 'ViT-B-32'" in said.error
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    said = curate("search", run, "a cat")
    assert said.code == 1
    assert "is not the checkpoint that" in said.error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "search takes one of a text, --image, --vector and --uid, got none"),
        (
            ("a cat", "--uid", "x"),
            "search takes one of a text, --image, --vector and --uid, got text and uid",
        ),
        (("  ",), "the text to search for must not be empty"),
        (("a cat",), "has vectors of its own (embed.column), made by a model curate does not know"),
        (("--image", "x.png"), "has vectors of its own"),
        (("--uid", "nobody"), "has no sample with the uid 'nobody'"),
        (("--uid", "s000020", "--on", "text"), "s000020 has no caption, so no vector of one"),
        (("--uid", "s000001", "--on", "words"), "--on must be image or text, got 'words'"),
        (("--uid", "s000001", "--top", "0"), "--top must be at least 1, got 0"),
        (("--uid", "s000001", "--concept", "8"), "--concept must be one of the 8 concepts, got 8"),
        (("--vector", "none.npy"), "--vector: there is no file none.npy"),
        (("--vector", "text.npy"), "--vector: text.npy is no .npy file of numbers"),
        (("--vector", "objects.npy"), "--vector: objects.npy is no .npy file of numbers"),
        (("--vector", "two.npy"), "--vector: two.npy must hold one vector, got 2"),
        (("--vector", "whole.npy"), "--vector: whole.npy must hold one vector of floats"),
        (("--vector", "zero.npy"), "--vector: zero.npy holds a vector that is zero or not finite"),
        (("--vector", "short.npy"), "the query has 3 numbers, the vectors of run have 16"),
    ],
)
def test_what_cannot_be_searched_for(own, monkeypatch, flags, said):
    monkeypatch.chdir(own)
    Path("text.npy").write_text("hello", encoding="utf-8")
    np.save("objects.npy", np.array([{}], object))
    np.save("two.npy", np.ones((2, 16), np.float32))
    np.save("whole.npy", np.ones(16, np.int64))
    np.save("zero.npy", np.zeros(16, np.float32))
    np.save("short.npy", np.ones(3, np.float32))
    answer = curate("search", "run", *flags)
    assert answer.code in (1, 2)
    assert said in answer.error


def test_images_that_are_none(seen, tmp_path):
    (tmp_path / "no.png").write_bytes(b"<html>")
    said = curate("search", seen / "run", "--image", tmp_path / "no.png")
    assert said.code == 1
    assert "no.png: broken_image: not an image: an HTML page" in said.error
    said = curate("search", seen / "run", "--image", tmp_path / "nothing.png")
    assert said.code == 2
    assert "--image: cannot read" in said.error


def test_a_run_that_is_not_embedded_or_decided(own, seen, tmp_path):
    (tmp_path / "recipe.yaml").write_bytes((own / "run/recipe.yaml").read_bytes())
    said = curate("search", tmp_path, "--uid", "s000001")
    assert said.code == 1
    assert "1_embeddings is not there yet; finish the run first" in said.error
    uid = open_run(seen / "run").samples().filter(pl.col("outcome") == "ok")["uid"][0]
    said = curate("search", seen / "run", "--uid", uid, "--kept")
    assert said.code == 1
    assert "5_decisions is not there yet" in said.error


def test_an_unusable_sample_has_no_vector(tmp_path):
    rows = planted(20).astype(np.float32)
    rows[3] = 0
    glob = write_shards(tmp_path / "in", rows, shards=1)
    recipe = recipe_values(glob, tmp_path / "run", limits={"unusable": 1.0})
    runner.run(parse_recipe(recipe), until="embed")
    with pytest.raises(UsageError, match="s000003 has no vector: its outcome is bad_vector"):
        search(tmp_path / "run", Query(uid="s000003"))


def test_blocks_of_a_part_are_one_search(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BATCH_ROWS", 16)
    monkeypatch.setattr(nearby, "BATCH_ROWS", 16)
    vectors = planted(100)
    glob = write_shards(tmp_path / "in", vectors, shards=2)
    runner.run(parse_recipe(recipe_values(glob, tmp_path / "run")), until="embed")
    run = open_run(tmp_path / "run")
    with pa.memory_map(str(next(run.folder.embeddings.glob("part-*")))) as file:
        assert pa.ipc.open_file(file).num_record_batches == 4
    query = unit_rows(planted(1, seed=9).astype(np.float32))[0][0]
    found = nearby.nearest(run.folder, query, top=7)
    assert answers(found) == brute(run, query)[:7]
    assert found["concept"].null_count() == 7, "there are no concepts yet"
