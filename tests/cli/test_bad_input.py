"""What is wrong with data, folders and requests is said in one line, with the right exit code."""

import errno
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from curate import open_run
from curate.io import storage
from tests.fixtures.builders import DIM, planted, write_shards
from tests.fixtures.calls import curate, own

GOOD, FAILED, USAGE, UNUSABLE = 0, 1, 2, 3


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def source(tmp_path):
    return write_shards(tmp_path / "in", planted(120))


def vectors(n):
    return [row.tolist() for row in planted(n).astype(np.float32)]


def table(path, columns, **options):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def lists(rows):
    return pa.array(rows, pa.list_(pa.float32()))


def samples(out):
    return pl.read_parquet(Path(out) / "0_samples/part-*.parquet")


# --- sources ------------------------------------------------------------------------------------------------


def test_no_file_matches_and_no_folder_is_left(source):
    said = own("nothing/*.parquet", "run")
    assert (said.code, said.error) == (USAGE, "nothing/*.parquet: matches nothing")
    assert not Path("run").exists()
    assert own(source, "run").code == GOOD


def test_a_folder_without_parquet():
    Path("pictures").mkdir()
    said = own("pictures", "run")
    assert said.code == USAGE
    assert said.error.startswith(
        "pictures: no data file below this folder; it holds no files; curate reads parquet, jsonl"
    )
    Path("pictures/a.doc").touch()
    Path("pictures/b.doc").touch()
    assert "it holds 2 .doc; curate reads parquet, " in own("pictures", "run").error
    assert own("pictures", "run").error.endswith("save what is data in it as a table (CSV)")


@pytest.mark.parametrize(
    ("role", "name"), [("uid", "idd"), ("caption", "text"), ("image", "jpg"), ("label", "x")]
)
def test_a_named_column_that_is_not_there(source, role, name):
    said = own(source, "run", "--set", f"source.{role}={name}")
    assert said.code == USAGE
    assert f"no column '{name}' (for {role})" in said.error
    assert "train-00000-of-00003.parquet" in said.error
    assert "embedding (" in said.error
    assert "id (string)" in said.error


def test_a_vector_column_that_is_not_there_or_no_vectors(source):
    said = curate("filter", source, "--out", "run", "--vectors", "emb", "--keep", "0.3")
    assert said.code == USAGE
    assert "no column 'emb' (for vector)" in said.error
    said = curate("filter", source, "--out", "run", "--vectors", "note", "--keep", "0.3", "--workers", "1")
    assert said.code in (FAILED, USAGE)
    assert "column 'note'" in said.error
    assert "string" in said.error


def test_no_image_column(source):
    said = curate("filter", source, "--out", "run", "--keep", "0.3", "--model", "tiny")
    assert said.code == USAGE
    assert "no image" in said.error
    assert "note (string)" in said.error


def test_a_wrong_request_does_not_bind_the_folder(source):
    assert curate("filter", source, "--out", "run", "--vectors", "emb", "--keep", "0.3").code == USAGE
    assert own(source, "run").code == GOOD


def test_a_truncated_shard_is_refused_or_counted(source):
    bad = Path("in/train-00001-of-00003.parquet")
    bad.write_bytes(bad.read_bytes()[:900])
    said = own(source, "run")
    assert said.code == FAILED
    assert "train-00001-of-00003.parquet: the Parquet file is cut short" in said.error
    assert said.error.endswith("limits.bad_shards allows 0, --set limits.bad_shards=1 goes on without")
    said = own(source, "run", "--set", "limits.bad_shards=1")
    assert said.code == GOOD
    assert "warning:" in said.err
    assert "an unknown number of rows are missing" in said.err
    found = open_run("run").manifest()["bad_shards"]
    assert [(shard["name"], shard["rows"]) for shard in found] == [("train-00001-of-00003.parquet", None)]
    assert open_run("run").manifest()["counts"]["rows"] == 80


def test_a_damaged_shard_is_counted_with_its_rows(source):
    bad = Path("in/train-00001-of-00003.parquet")
    data = bytearray(bad.read_bytes())
    data[4:60] = b"\xff" * 56
    bad.write_bytes(data)
    said = own(source, "run")
    assert said.code == FAILED
    assert "train-00001-of-00003.parquet: the Parquet file is damaged" in said.error
    said = own(source, "run", "--set", "limits.bad_shards=1")
    assert said.code == GOOD
    assert "(40 rows are missing)" in said.err
    assert open_run("run").manifest()["bad_shards"][0]["rows"] == 40
    assert (
        json.loads(own(source, "run", "--set", "limits.bad_shards=1", "--json").out)["counts"]["rows"] == 80
    )


@pytest.mark.parametrize(
    "more", [[], ["--method", "random"], ["--method", "prototypes", "--epsilon", "drop=0.2"]]
)
def test_zero_rows_are_no_error(more):
    empty = table("in/a.parquet", {"embedding": lists([]), "note": pa.array([], pa.string())})
    said = own(empty, "run", *more)
    assert said.code == GOOD
    assert "warning: the source has no rows" in said.err
    assert "nan" not in said.err + said.out
    [written] = Path("run/6_filtered").glob("*.parquet")
    assert pq.read_table(written).schema.names == ["embedding", "note"]
    assert pq.read_metadata(written).num_rows == 0
    again = own(empty, "run", *more)
    assert "nothing to do" in again.err
    assert curate("inspect", "run").code == curate("verify", "run").code == GOOD
    table("in/a.parquet", {"embedding": lists(vectors(40)), "note": ["x"] * 40})
    assert own(empty, "run", *more).code == GOOD
    assert open_run("run").manifest()["counts"]["kept"] == 12


def test_zero_rows_with_a_model():
    empty = table("a.parquet", {"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})
    said = curate("filter", empty, "--out", "run", "--keep", "0.3", "--model", "tiny", "--workers", "1")
    assert said.code == GOOD
    assert "warning: the source has no rows" in said.err


def test_fewer_rows_than_concepts():
    said = own(
        table("a.parquet", {"embedding": lists(vectors(5))}), "run", "--set", "cluster.concepts=50", keep="1"
    )
    assert said.code == GOOD
    assert "warning: cluster: 5 concepts instead of 50" in said.err
    concepts = open_run("run").concepts()
    assert len(concepts) == 5
    assert concepts["d_intra"].max() < 1e-6
    assert concepts["probability"].to_list() == pytest.approx([0.2] * 5)


def test_one_row():
    assert (
        own(table("a.parquet", {"embedding": lists(vectors(1))}), "run", "--epsilon", "0.1", keep="1").code
        == GOOD
    )
    assert open_run("run").decisions()["keep"].to_list() == [True]


# --- rows that cannot be used ---------------------------------------------------------------------------------


def test_all_images_broken():
    source = table("a.parquet", {"image": [b"no image"] * 3 + [None], "caption": ["a", "b", "c", "d"]})
    said = curate("filter", source, "--out", "run", "--keep", "0.3", "--model", "tiny", "--workers", "1")
    assert said.code == FAILED
    assert said.error.startswith("no usable sample: 3 broken_image (")
    assert ", 1 missing_image (the image is null); 0_samples" in said.error
    assert samples("run")["outcome"].to_list() == ["broken_image"] * 3 + ["missing_image"]


def test_bad_vectors_have_their_reason():
    rows = vectors(20)
    rows[3], rows[4], rows[5] = [float("nan")] * DIM, [float("inf")] * DIM, [0.0] * DIM
    rows[6], rows[7], rows[8], rows[9] = [1.0, 2.0], None, [None] + [1.0] * (DIM - 1), [1e-30] * DIM
    source = table("a.parquet", {"embedding": lists(rows)})
    said = own(source, "run")
    assert said.code == UNUSABLE
    assert said.error == (
        "finished, but 7 of 20 rows (35.0%) are unusable, mostly bad_vector; limits.unusable allows 5.0% "
        "(0_samples says why, row by row)"
    )
    assert "unusable: bad_vector" in said.out, "the result is shown all the same"
    bad = samples("run").filter(pl.col("outcome") != "ok")
    assert bad["outcome"].unique().to_list() == ["bad_vector"]
    assert dict(bad.select("row", "reason").iter_rows()) == {
        3: "the vector is not finite", 4: "the vector is not finite", 5: "the vector is zero",
        6: f"the vector has 2 numbers, expected {DIM}", 7: "the vector is null",
        8: "the vector has a null in it", 9: "the vector has no usable length",
    }  # fmt: skip
    assert own(source, "run").code == UNUSABLE, "also where nothing is to do"
    assert own(source, "run", "--set", "limits.unusable=35%").code == GOOD
    assert json.loads(own(source, "run", "--json").out)["counts"]["unusable"] == {"bad_vector": 7}


def test_bad_rows_of_a_vector_file():
    source = table("a.parquet", {"id": [str(i) for i in range(20)]})
    rows = planted(20).astype(np.float32)
    rows[3], rows[4], rows[5] = np.nan, np.inf, 0
    np.save("v.npy", rows)
    said = curate("filter", source, "--out", "run", "--vectors", "v.npy", "--keep", "0.3", "--workers", "1")
    assert said.code == UNUSABLE
    bad = samples("run").filter(pl.col("outcome") != "ok")
    assert bad["reason"].to_list() == ["the vector is not finite"] * 2 + ["the vector is zero"]


def test_all_vectors_invalid():
    said = own(table("a.parquet", {"embedding": lists([[float("nan")] * 4] * 6)}), "run")
    assert said.code == FAILED
    assert said.error.startswith("no usable sample")
    said = own(table("b.parquet", {"embedding": lists([None] * 6)}), "run2")
    assert (said.code, said.error) == (FAILED, "embed.column 'embedding': no usable vector in any row")


def test_vector_files_that_do_not_fit():
    source = table("a.parquet", {"id": [str(i) for i in range(20)]})
    np.save("v.npy", planted(19))

    def error(*more):
        said = curate("filter", source, "--out", "run", "--keep", "0.3", "--workers", "1", *more)
        return said.code, said.error

    assert error("--vectors", "v.npy") == (
        FAILED,
        "embed.files v.npy has 19 vectors, but source a.parquet has 20 rows",
    )
    near = Path("v.npy").absolute()
    assert error("--vectors", "w.npy") == (USAGE, f"w.npy: no such file or folder; did you mean {near}?")
    np.save("v.npy", np.zeros((20, 3), np.int64))
    assert "must hold float16, float32 or float64, found int64" in error("--vectors", "v.npy")[1]
    Path("v.npy").write_bytes(b"no numbers")
    assert "v.npy: not a .npy file" in error("--vectors", "v.npy")[1]


# --- uids -----------------------------------------------------------------------------------------------------


def test_uids_must_be_unique_and_there():
    ids = ["a", "b", "\x1b[31mred", "\x1b[31mred"] + [str(i) for i in range(20)]
    source = table("a.parquet", {"id": ids, "embedding": lists(vectors(24))})
    said = own(source, "run", "--set", "source.uid=id")
    assert said.code == FAILED
    assert "source.uid: column 'id' must be unique" in said.error
    assert "row 2" in said.error
    assert "row 3" in said.error
    assert "\x1b" not in said.err
    source = table("b.parquet", {"id": ["a", None], "embedding": lists(vectors(2))})
    said = own(source, "run2", "--set", "source.uid=id")
    assert said.code == FAILED
    assert "b.parquet: row 1: the uid (column 'id') is null" in said.error


# --- budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (["--keep", "0"], "select.keep must be in (0, 1], got 0"),
        (["--keep", "1.5"], "select.keep must be in (0, 1], got 1.5"),
        (["--keep", "30"], "select.keep must be in (0, 1], got 30; 30 % is 0.3 or 30%"),
        (["--keep", "-0.3"], "select.keep must be in (0, 1], got -0.3"),
        (["--keep", "third"], "select.keep must be a share such as 0.3 or 30%, got 'third'"),
        (["--count", "-1"], "select.count must be at least 0, got -1"),
        (
            ["--keep", "0.3", "--count", "3"],
            "select takes keep (a share) or count (a number of samples), got both",
        ),
        (
            [],
            "nothing says what to keep: add --keep 0.3 (a share) or --count 1000 (rows), or what is to go: "
            + "--dedup, --where, --drop-noise, --exclude or --only",
        ),
    ],
)
def test_wrong_budgets(source, budget, message):
    said = own(source, "run", *budget, keep=None)
    assert (said.code, said.error) == (USAGE, message)
    assert not Path("run").exists()


def test_more_asked_for_than_eligible():
    rows = planted(60, copies=5, near=8)
    source = write_shards(
        Path("in"), np.concatenate([rows, np.full((1, DIM), np.nan, np.float16)]), uid=False
    )
    steps = ["--epsilon", "0.001", "--where", "row < 19"]
    said = own(source, "run", "--count", "60", *steps, keep=None)
    assert said.code == FAILED
    head, _, steps_told = said.error.partition(" rows are eligible (")
    assert head.startswith("select.count 60, but only ")
    assert steps_told.startswith("61 rows in, 1 unusable, ")
    assert "filtered" in steps_told
    assert "near-duplicates" in steps_told
    assert steps_told.endswith("ask for fewer, or accept what there is with --at-most")
    eligible = int(head.split()[-1])
    said = own(source, "run", *steps, keep="1")
    assert f"select.keep 1 of 60 usable rows = 60, but only {eligible} rows" in said.error
    said = own(source, "run", *steps, "--at-most", keep="1")
    assert said.code == GOOD
    assert f"all {eligible} eligible rows are kept" in said.err
    assert open_run("run").manifest()["counts"]["kept"] == eligible


def test_a_count_of_zero_keeps_nothing(source):
    said = own(source, "run", "--count", "0", keep=None)
    assert said.code == GOOD
    [written] = Path("run/6_filtered").glob("*.parquet")
    assert pq.read_metadata(written).num_rows == 0
    assert pq.read_schema(written).names == pq.read_schema("in/train-00000-of-00003.parquet").names
    decisions = open_run("run").decisions()
    assert decisions["reason"].unique().to_list() == ["over_budget"]
    assert not decisions["random_control"].any()


# --- conditions and columns: told before any work -------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--where", "cap > 3"], "filter 'cap > 3': no column 'cap'; there are uid, occurrence, "),
        (["--where", "distance"], "filter 'distance' must be true or false, it gives Float32"),
        (["--where", "1"], "filter '1' must be true or false, it gives Int32"),
        (["--where", "distance >"], "filter 'distance >': unable to parse"),
        (["--where", ""], "filter '': unable to parse"),
        (["--where", "distance > 'a'"], "filter \"distance > 'a'\": cannot compare string with numeric type"),
        (
            ["--where", "distance > 1; drop table x"],
            "filter 'distance > 1; drop table x': invalid expression",
        ),
        (["--where", "count(*) > 3"], "filter 'count(*) > 3' must look at one row alone"),
        (
            ["--where", "distance > avg(distance)"],
            "filter 'distance > avg(distance)' must look at one row alone",
        ),
        (["--where", "row_number() over (order by distance) < 4"], "filter 'row_number() over (order by"),
        (
            ["--set", "select.prefer=score:foo"],
            "select.prefer: no column of numbers for 'score:foo'; there are ",
        ),
        (
            ["--set", "dedup.prefer=score:uid"],
            "dedup.prefer: no column of numbers for 'score:uid'; there are ",
        ),
        (["--set", "write.columns=[foo]"], "write.columns: no column 'foo'; there are uid, "),
    ],
)
def test_requests_that_the_tables_cannot_answer(source, more, message):
    for extra in ([], ["--dry-run"]):
        said = own(source, "run", *more, *extra)
        assert said.code == USAGE
        assert said.error.startswith(message)
        assert not Path("run").exists()


# --- folders --------------------------------------------------------------------------------------------------


def test_a_folder_made_from_something_else(source, tmp_path):
    other = write_shards(tmp_path / "other", planted(60, seed=5))
    assert own(source, "run").code == GOOD
    before = curate("verify", "run", "--digest").out
    said = own(other, "run")
    assert said.code == USAGE
    assert said.error == (
        f"run was made differently: none of its 3 shards is in source.path {other}; "
        "name another folder, or replace it with --force"
    )
    said = curate("filter", source, "--out", "run", "--keep", "0.3", "--model", "tiny")
    assert "embed.column was 'embedding', is None" in said.error
    assert "embed.model was None, is 'tiny'" in said.error
    assert own("nothing.parquet", "run", "--force").code == USAGE
    assert curate("verify", "run", "--digest").out == before, "a wrong request leaves the folder alone"
    assert own(other, "run", "--force").code == GOOD
    assert open_run("run").manifest()["counts"]["rows"] == 60


def test_folders_that_hold_no_run(source):
    Path("stuff").mkdir()
    Path("stuff/thesis.txt").touch()
    said = own(source, "stuff")
    assert said.code == USAGE
    assert "stuff is not empty and no run folder (it holds thesis.txt)" in said.error
    Path("file").touch()
    assert own(source, "file").error == "file is a file, not a run folder; name another with --out"
    for command in ("inspect", "verify"):
        for place in ("stuff", "nothing", "file"):
            said = curate(command, place)
            assert (said.code, said.error) == (USAGE, f"{place} is not a run folder: it has no recipe.yaml")


def test_an_unfinished_run(source):
    recipe = (
        f"run: run\nsource: '{source}'\nembed: {{column: embedding}}\nselect: {{keep: 0.3}}\nworkers: 1\n"
    )
    Path("r.yaml").write_text(recipe, encoding="utf-8")
    assert curate("run", "r.yaml", "--until", "embed").code == GOOD
    said = curate("verify", "run")
    assert said.code == FAILED
    assert "is not there yet; finish the run first" in said.error
    said = curate("inspect", "run")
    assert said.code == GOOD
    assert "not there yet: cluster, " in said.err


def test_a_damaged_run(source):
    assert own(source, "run").code == GOOD
    kept = next(Path("run/6_filtered").glob("*.parquet"))
    kept.write_bytes(kept.read_bytes() + b"x")
    said = curate("verify", "run")
    assert said.code == FAILED
    assert str(kept) in said.error
    kept.unlink()
    assert "missing" in curate("verify", "run").error
    assert own(source, "run").code == GOOD
    assert curate("verify", "run").code == GOOD


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EROFS, "the disk is read-only; choose another folder with --out"),
        (errno.ENOSPC, "the disk is full; free some space and run again, finished parts are kept"),
        (errno.EACCES, "no permission to write here"),
    ],
)
def test_a_disk_that_refuses(source, monkeypatch, number, message):
    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = own(source, "run")
    assert said.code == FAILED
    assert said.error.startswith("cannot write run")
    assert message in said.error


def test_a_disk_that_fills_up_keeps_what_is_done(source, monkeypatch):
    sync = storage._sync

    def full(path):
        if "1_embeddings" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_sync", full)
        said = own(source, "run")
    assert said.code == FAILED
    assert "the disk is full" in said.error
    again = own(source, "run")
    assert again.code == GOOD
    assert not again.err.startswith("read:"), "what was done is not done again"


def test_an_out_that_cannot_be(source):
    said = own(source, "/dev/null/run")
    assert said.code == FAILED
    assert said.error.startswith("cannot write /dev/null/run")


# --- secrets --------------------------------------------------------------------------------------------------


def test_secrets_stay_out_of_a_run(source, monkeypatch):
    monkeypatch.setenv("OTHER_SECRET", "hunter22")
    options = "source.storage_options={key: AKIA777, secret: '${OTHER_SECRET}', auto_mkdir: false}"
    said = own(source, "run", "--set", options)
    assert said.code == GOOD
    dry = own(source, "run", "--set", options, "--dry-run", "--json")
    for path in Path("run").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"AKIA777" not in data, path
            assert b"hunter22" not in data, path
    assert "AKIA777" not in said.out + said.err + dry.out + dry.err
    assert "${OTHER_SECRET}" in Path("run/recipe.yaml").read_text(encoding="utf-8")
    again = own(source, "run", "--set", options)
    assert again.code == GOOD
    assert "nothing to do" in again.err
    rotated = own(source, "run", "--set", options.replace("777", "888"))
    assert rotated.code == GOOD
    assert "nothing to do" in rotated.err
    said = curate("run", "run/recipe.yaml")
    assert said.code == USAGE
    assert "source.storage_options hold <not kept> where a secret was" in said.error


def test_a_secret_of_the_environment_that_is_not_set(source):
    said = own(
        "memory://nothing/*.parquet", "run", "--set", "source.storage_options={secret: '${NO_SUCH_NAME}'}"
    )
    assert (said.code, said.error) == (
        USAGE,
        "storage_options: the environment variable NO_SUCH_NAME is not set",
    )


def test_images_that_fail_are_rows_not_errors():
    picture = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(picture, "PNG")
    source = table("a.parquet", {"image": [picture.getvalue(), b"broken"], "caption": ["a red square", "b"]})
    said = curate("filter", source, "--out", "run", "--keep", "1", "--model", "tiny", "--workers", "1")
    assert said.code == UNUSABLE
    assert open_run("run").decisions()["reason"].to_list() == ["kept", "unusable:broken_image"]
    shutil.rmtree("run")
