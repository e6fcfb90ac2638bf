import io
import logging
import re
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.clustering.user_clusters import MemberSums, labelling
from curate.embedding.user_vectors import Lengths, warn_of_lengths
from curate.errors import CurateError, EmbeddingError, RecipeError, SourceError
from curate.hashing import hash_uids
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.sources.arrays.npy import npy_array, npz_arrays, opened
from tests.fixtures.builders import planted, recipe_values


def rows(n, dim=8, dtype=np.float32):
    return np.random.default_rng(n).standard_normal((n, dim)).astype(dtype)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_members_are_read_in_any_blocks(tmp_path, save, dtype):
    whole = rows(3000, 5, dtype)
    save(tmp_path / "a.npz", other=rows(2), x=whole)
    array = npz_arrays(str(tmp_path / "a.npz"))["x"]
    with opened(array) as stream:
        for start, stop in ((0, 7), (7, 7), (2990, 3000), (3, 4)):
            np.testing.assert_array_equal(stream.read(start, stop), whole[start:stop])
        some = np.array([0, 1, 17, 1500, 2999])
        np.testing.assert_array_equal(stream.take(some), whole[some])
        assert stream.take(some[:0]).shape == (0, 5)


def test_sparse_rows_are_taken_across_blocks_from_any_store(monkeypatch):
    monkeypatch.setattr("curate.sources.arrays.npy.BLOCK_BYTES", 100)
    whole = rows(200)
    with fsspec.filesystem("memory").open("/given/a.npy", "wb") as file:
        np.save(file, whole)
    some = np.array([0, 2, 3, 4, 50, 51, 199])
    with opened(npy_array("memory://given/a.npy")) as stream:
        np.testing.assert_array_equal(stream.take(some), whole[some])


BAD = [
    (np.zeros((3, 1, 4), np.float32), r"found \(3, 1, 4\): axis 1 is one too many; save x\.squeeze\(1\)"),
    (np.zeros(3, np.float32), r"found \(3,\); save an array with one row per sample"),
    (np.zeros((3, 0), np.float32), r"found \(3, 0\)"),
    (np.zeros((3, 4), np.int8), "must hold float16, float32 or float64, found int8"),
    (np.array([[{}, 1]], object), r"Python objects \(a pickle\), which is never loaded"),
    (np.asfortranarray(np.zeros((3, 4), np.float32)), "column by column"),
    (np.zeros((1, 300_000), np.float32), "a row of 300,000 numbers"),
]


@pytest.mark.parametrize(("array", "said"), BAD)
def test_what_is_no_array_of_vectors_is_explained(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(SourceError, match=rf"a\.npy: .*{said}"):
        npy_array(str(tmp_path / "a.npy"))
    np.savez(tmp_path / "a.npz", fine=rows(3), x=array)
    with pytest.raises(SourceError, match=rf"a\.npz: array 'x': .*{said}"):
        npz_arrays(str(tmp_path / "a.npz"))


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_files_that_lie_about_themselves_are_refused_by_their_headers(tmp_path):
    path, good = tmp_path / "a.npy", npy_bytes(rows(3))
    huge = good[:128].replace(b"(3, 8)", b"(9999999999, 8)"[:15])
    cases = [
        (b"", "not a .npy array"),
        (b"\x80\x04K\x01.", "is a pickle"),
        (good[:-1], r"is cut short: it has 223 bytes, its shape \(3, 8\) needs 224"),
        (good + b"x", "holds more than one array"),
        (good[:60], "damaged or of another kind"),
        (b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little"), "its header claims 2,147,483,648 bytes"),
        (huge.ljust(128)[:128], "damaged|cut short"),
    ]
    for content, said in cases:
        path.write_bytes(content)
        with pytest.raises(SourceError, match=rf"a\.npy: .*{said}"):
            npy_array(str(path))


def test_an_archive_that_unpacks_to_more_than_its_shape_says_is_refused_unread(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_bytes(rows(3)) + bytes(50_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(SourceError, match=r"array 'x': holds more than one array: it has 50,000,224 bytes"):
        npz_arrays(str(path))
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(SourceError, match=r"a\.npz: the file is damaged or of another kind"):
        npz_arrays(str(path))


def test_damage_inside_a_member_is_an_error_of_ours(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=rows(2000))
    data = bytearray(path.read_bytes())
    data[30_000] ^= 255
    path.write_bytes(data)
    with opened(npz_arrays(str(path))["x"]) as stream, pytest.raises(SourceError, match=r"array 'x': .*CRC"):
        stream.read(0, 2000)
    # It is found wherever one begins, and after one went on and back.
    for ranges in ([(1000, 2000)], [(1500, 1600), (0, 10), (1000, 2000)]):
        with opened(npz_arrays(str(path))["x"]) as stream:
            for start, stop in ranges[:-1]:
                stream.read(start, stop)
            with pytest.raises(SourceError, match=r"array 'x': .*CRC"):
                stream.read(*ranges[-1])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_a_member_are_read_in_any_order(tmp_path, save):
    path, expected = tmp_path / "a.npz", rows(2000)
    save(path, x=expected)
    with opened(npz_arrays(str(path))["x"]) as stream:
        for start, stop in [(1500, 1600), (0, 10), (10, 20), (1999, 2000), (5, 5), (0, 2000)]:
            assert (stream.read(start, stop) == expected[start:stop]).all()


def test_one_warning_names_the_vectors_that_are_farthest_from_length_1(caplog):
    def median(*sizes):
        one = Lengths()
        for size in sizes:
            one.note(np.full(3, size, np.float64))
        return one.median()

    with caplog.at_level(logging.WARNING, "curate"):
        warn_of_lengths(["a", "b"], [{"image": median(1.005)}, {"image": median(0.995), "text": median()}])
        assert caplog.messages == []
        warn_of_lengths(
            ["a", "b"], [{"image": median(1.02)}, {"image": median(1), "text": median(1, 18, 30)}]
        )
    assert len(caplog.messages) == 1
    assert "the median length of the text vectors of b is 18 (more than 1 % off 1 in 2 of 3" in caplog.text


# Text vectors in a column of a Parquet file


def text_source(folder, vectors, words):
    folder.mkdir()
    columns = {"id": [f"s{i:03d}" for i in range(len(vectors))], "emb": list(vectors), "words": words}
    pq.write_table(pa.table(columns), folder / "0.parquet")
    return str(folder / "0.parquet")


def read_all(run, name):
    return pa.concat_tables([pq.read_table(file) for file in sorted((run / name).glob("part-*"))])


def test_own_text_vectors_give_clip_scores_and_their_faults_are_told(tmp_path):
    image, text = planted(40).astype(np.float32), planted(40, seed=1).astype(np.float32)
    words = [row.tolist() for row in text]
    words[3], words[4], words[5] = None, [float("nan")] * 16, [1.0]
    source = text_source(tmp_path / "in", image, words)
    embed = {"column": "emb", "text_column": "words"}
    values = recipe_values(
        source, tmp_path / "run", embed=embed, limits={"unusable": 0.1}, score=["clip_score", "pair"]
    )
    runner.run(parse_recipe(values))
    samples = read_all(tmp_path / "run", "0_samples").to_pylist()
    bad = {row["row"]: (row["outcome"], row["reason"]) for row in samples if row["outcome"] != "ok"}
    assert bad == {
        4: ("bad_vector", "text: the vector is not finite"),
        5: ("bad_vector", "text: the vector has 1 number, expected 16"),
    }
    scores = {
        row["uid"]: row["clip_score"] for row in read_all(tmp_path / "run", "3_scores/clip_score").to_pylist()
    }
    assert scores["s003"] is None
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)]
    for row in (0, 7, 39):
        assert scores[f"s{row:03d}"] == pytest.approx(float(unit[0][row] @ unit[1][row]), abs=2e-3)


def test_concepts_of_text_leave_out_samples_without_a_text_vector(tmp_path):
    words = [row.tolist() for row in planted(40, seed=1).astype(np.float32)]
    words[3] = None
    source = text_source(tmp_path / "in", planted(40).astype(np.float32), words)
    embed = {"column": "emb", "text_column": "words"}
    runner.run(parse_recipe(recipe_values(source, tmp_path / "run", embed=embed, cluster={"on": "text"})))
    samples = read_all(tmp_path / "run", "0_samples").to_pylist()
    assert [row["outcome"] for row in samples if row["row"] in (2, 3)] == ["ok", "no_caption"]


def test_text_vectors_stand_beside_a_column_only():
    for embed in (
        {"text_column": "t"},
        {"files": "a.npy", "text_column": "t"},
        {"model": "tiny", "text_column": "t"},
    ):
        with pytest.raises(RecipeError, match="text_column, the vectors of captions, beside column only"):
            parse_recipe(recipe_values("x", "run", embed=embed))


# Sorted clusters


def test_labelling_knows_every_id_and_refuses_two_clusters_for_one():
    pieces = [hash_uids(["a", "b", "a"]), hash_uids(["c"])]
    labels = [np.array([4, 0, 4], np.int32), np.array([2], np.int32)]
    assert labelling(pieces, labels).of(["c", "a", "zzz", "b"]).tolist() == [2, 4, -1, 0]
    assert labelling([], []).of(["a"]).tolist() == [-1]
    labels[0][2] = 5
    with pytest.raises(EmbeddingError, match=r"1 ids are in more than one cluster, such as one in 4 and 5"):
        labelling(pieces, labels)


def test_sums_are_the_means_and_do_not_depend_on_order():
    vectors = rows(500)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cluster = np.random.default_rng(1).integers(0, 4, 500).astype(np.int32)
    made = []
    for order in (np.arange(500), np.random.default_rng(2).permutation(500)):
        sums = MemberSums(4, 8)
        for block in np.array_split(order, 7):
            sums.add(vectors[block], cluster[block])
        made.append(sums.centroids())
        assert sums.sizes.tolist() == np.bincount(cluster).tolist()
    assert made[0].tobytes() == made[1].tobytes()
    means = np.stack([vectors[cluster == k].astype(np.float64).mean(axis=0) for k in range(4)])
    np.testing.assert_allclose(made[0], means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-7)
    sums = MemberSums(1, 2)
    sums.add(np.array([[1, 0], [-1, 0]], np.float32), np.zeros(2, np.int32))
    with pytest.raises(EmbeddingError, match="cluster 0 cancel out"):
        sums.centroids()


def sorted_clusters(folder, names, labels, kind="U"):
    folder.mkdir(exist_ok=True)
    for label in sorted(set(labels)):
        members = [(names[i], i, 0.25, label) for i in range(len(names)) if labels[i] == label]
        np.save(folder / f"cluster_{label}.npy", np.array(members).astype(kind))
    return str(folder / "*.npy")


def clustered(tmp_path, labels, kind="U", names=None, **source):
    vectors = planted(len(labels)).astype(np.float32)
    names = names or [f"s{i:03d}" for i in range(len(labels))]
    path = text_source(tmp_path / "in", vectors, vectors.tolist())
    given = sorted_clusters(tmp_path / "sorted", names, labels, kind)
    values = recipe_values(path, tmp_path / "run", embed={"column": "emb"}, cluster={"given": given})
    return vectors, parse_recipe(values | {"source": {"path": path, "uid": "id"} | source})


@pytest.mark.parametrize("kind", ["U", "S"])
def test_sorted_clusters_are_the_concepts(tmp_path, kind):
    labels = [i * i % 5 for i in range(60)]
    vectors, recipe = clustered(tmp_path, labels, kind)
    np.save(tmp_path / "sorted" / "cluster_2.npy", np.array([]))
    runner.run(recipe)
    found = {row["uid"]: row for row in read_all(tmp_path / "run", "2_concepts/assignments").to_pylist()}
    assert {uid: row["concept"] for uid, row in found.items()} == {
        f"s{i:03d}": {0: 0, 1: 1, 4: 2}[label] for i, label in enumerate(labels)
    }
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = unit[[label == 4 for label in labels]].mean(axis=0)
    mean /= np.linalg.norm(mean)
    centroids = pq.read_table(tmp_path / "run" / "2_concepts" / "centroids.parquet")["centroid"].to_pylist()
    np.testing.assert_allclose(centroids[2], mean, atol=1e-3)
    assert found["s002"]["distance"] == pytest.approx(1 - float(unit[2] @ mean), abs=2e-3)
    concepts = pq.read_table(tmp_path / "run" / "2_concepts" / "concepts.parquet").to_pydict()
    assert concepts["n_assigned"] == [labels.count(0), labels.count(1), labels.count(4)]


def test_samples_in_no_cluster_are_counted_and_named(tmp_path):
    labels = [0, 1] * 20
    _, recipe = clustered(tmp_path, labels, names=[f"s{i:03d}" for i in range(38)] + ["x", "y"])
    with pytest.raises(EmbeddingError, match="2 of 40 samples are in no cluster, such as 's038'"):
        runner.run(recipe)


def test_files_that_are_no_sorted_clusters_are_named(tmp_path):
    _, recipe = clustered(tmp_path, [0, 1] * 20)
    path = tmp_path / "sorted" / "cluster_0.npy"
    for array, said in (
        (
            np.array([["a", "1", "0.5"]]),
            r"must have rows \[path, index, distance, cluster\], found shape \(1, 3\)",
        ),
        (np.array([["a", "1", "0.5", "two"]]), "rows 0 to 0: .*could not convert"),
        (np.array([["a", 1, 0.5, 2]], object), "never loaded"),
        (np.zeros((2, 4)), r"must hold text \(S or U\)"),
    ):
        np.save(path, array)
        with pytest.raises(CurateError, match=rf"cluster_0\.npy: .*{said}"):
            runner.run(recipe)


def test_given_clusters_have_their_own_number():
    with pytest.raises(RecipeError, match=re.escape("takes one of concepts and given")):
        parse_recipe(recipe_values("x", "run", cluster={"given": "a.npy", "concepts": 4}))
