import numpy as np
import polars as pl
import pytest

from curate.errors import UsageError
from curate.filtering.uid_lists import read_uids
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run
from curate.writers.subsets import write_npy, write_parquet, write_text
from tests.fixtures.builders import planted, recipe_values, write_shards

HEX = [f"{i:032x}" for i in (7, 2**127 + 1, 2**64, 3, 2**64 - 1)]


def block(uids, weight=1.0):
    return uids, np.full(len(uids), weight, np.float32)


def test_npy_is_what_datacomp_reads(tmp_path):
    assert write_npy(tmp_path / "a.npy", [block(HEX[:2]), block(HEX[2:])], seed=0) == 5
    got = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert got.dtype == np.dtype("u8,u8") and got.ndim == 1
    # as DataComp makes and reads its lists
    made = np.array([(int(uid[:16], 16), int(uid[16:32], 16)) for uid in HEX], np.dtype("u8,u8"))
    made.sort()
    assert (got == made).all()
    assert [uid for uids in read_uids(tmp_path / "a.npy") for uid in uids] == sorted(HEX)


def test_npy_repeats_by_weight(tmp_path):
    rng = np.random.default_rng(0)
    uids = [rng.bytes(16).hex() for _ in range(400)]
    weight = rng.gamma(1.0, 1.0, 400).astype(np.float32)
    weight *= 400 / weight.sum()
    order = rng.permutation(400)
    assert write_npy(tmp_path / "a.npy", [(uids, weight)], seed=3) == 400
    shuffled = [uids[i] for i in order], weight[order]
    write_npy(tmp_path / "b.npy", [shuffled], seed=3)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes(), "no order of rows matters"
    write_npy(tmp_path / "c.npy", [shuffled], seed=4)
    assert (tmp_path / "a.npy").read_bytes() != (tmp_path / "c.npy").read_bytes()
    listed = [uid for block in read_uids(tmp_path / "a.npy") for uid in block]
    assert listed == sorted(listed)
    for uid, expected in zip(uids, weight, strict=True):
        assert listed.count(uid) in (np.floor(expected), np.ceil(expected))


def test_npy_of_nothing_and_of_zero_weights(tmp_path):
    assert write_npy(tmp_path / "a.npy", [], seed=0) == 0
    assert np.load(tmp_path / "a.npy").shape == (0,)
    uids, weight = HEX, np.array([0, 2, 0, 0, 0], np.float32)
    assert write_npy(tmp_path / "b.npy", [(uids, weight)], seed=0) == 1


@pytest.mark.parametrize(
    "bad", ["s1", "A" * 32, "g" * 32, "0" * 31, "0" * 33, f"{7:032x}#1", "", "0" * 31 + "\n"]
)
def test_npy_refuses_other_uids(tmp_path, bad):
    with pytest.raises(UsageError, match=r"32 hexadecimal digits.* 2 kept uids are others, such as") as error:
        write_npy(tmp_path / "a.npy", [block(HEX), block([bad, HEX[0], bad])], seed=0)
    assert repr(bad) in str(error.value)
    assert not (tmp_path / "a.npy").exists()


def test_text_and_parquet_come_back(tmp_path):
    uids = ["b", "ä c", "a" * 500]
    assert write_text(tmp_path / "a.txt", [uids[:1], uids[1:]]) == 3
    assert (tmp_path / "a.txt").read_bytes() == ("\n".join(uids) + "\n").encode()
    assert [uid for found in read_uids(tmp_path / "a.txt") for uid in found] == uids
    assert write_parquet(tmp_path / "a.parquet", [block(uids, 0.5), block([])]) == 3
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame["uid"].to_list() == uids and frame["weight"].to_list() == [0.5] * 3
    assert [uid for found in read_uids(tmp_path / "a.parquet") for uid in found] == uids


@pytest.mark.parametrize("bad", ["", " a", "a\nb", "a\u2028b", "a\r"])
def test_text_refuses_what_a_line_cannot_hold(tmp_path, bad):
    with pytest.raises(UsageError, match="cannot hold the uid"):
        write_text(tmp_path / "a.txt", [["x", bad]])
    assert not (tmp_path / "a.txt").exists()


# --- only: the list to choose from ----------------------------------------------------------------------------


def decided(folder, **changes):
    glob = write_shards(folder / "in", planted(60, copies=6))
    changes = {
        "select": {"method": "random", "keep": 1.0, "of": "eligible"},
        "dedup": {"epsilon": None},
    } | changes
    runner.run(parse_recipe(recipe_values(glob, folder / "run", **changes)), until="select")
    return open_run(folder / "run").decisions()


def write_list(path, rows):
    path.write_text("".join(f"s{row:06d}\n" for row in rows))
    return str(path)


def test_only_drops_what_is_not_listed(tmp_path):
    listed = list(range(7, 40, 2))  # the first six rows have copies
    got = decided(tmp_path, only=write_list(tmp_path / "only.txt", [*listed, 1000]))
    kept = set(got.filter("keep")["uid"])
    assert kept == {f"s{row:06d}" for row in listed}
    reasons = dict(got["reason"].value_counts().iter_rows())
    assert reasons == {"kept": len(listed), "excluded": 54 - len(listed), "exact_duplicate": 6}


def test_only_allows_the_sample_that_stands_for_a_listed_copy(tmp_path):
    got = decided(
        tmp_path, only=write_list(tmp_path / "only.txt", [54, 55])
    )  # copies of 0 and 1, or 0 and 1 of them
    kept = got.filter("keep")["uid"].to_list()
    assert len(kept) == 2
    assert all(int(uid[1:]) in (0, 54, 1, 55) for uid in kept)


def test_an_empty_list_leaves_nothing_and_pins_stay(tmp_path):
    only = write_list(tmp_path / "only.txt", [])
    pin = write_list(tmp_path / "pin.txt", [8])
    got = decided(tmp_path, only=only, pin=pin, exclude=write_list(tmp_path / "no.txt", [6]))
    assert got.filter("keep").select("uid", "reason").rows() == [("s000008", "pinned")]


def test_another_list_decides_anew(tmp_path):
    only = tmp_path / "only.txt"
    assert decided(tmp_path, only=write_list(only, [1, 2]))["keep"].sum() == 2
    assert decided(tmp_path, only=write_list(only, [1, 2, 3]))["keep"].sum() == 3
    assert decided(tmp_path)["keep"].sum() == 54
