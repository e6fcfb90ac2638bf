"""The command line as a user sees it: flags, exit codes, what goes to stdout and what to stderr."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import cli, open_run
from curate.api.sample import sample_path
from curate.cli.output import plain
from curate.recipe.loading import load_recipe
from tests.fixtures.builders import planted, write_shards
from tests.fixtures.calls import curate, own

pytestmark = pytest.mark.usefixtures("no_flush")
COMMANDS = [
    "init",
    "run",
    "filter",
    "demo",
    "score",
    "select",
    "methods",
    "models",
    "formats",
    "evaluate",
    "retry",
    "export",
    "overrides",
    "inspect",
    "explain",
    "plan",
    "report",
    "review",
    "search",
    "retrieve",
    "name",
    "verify",
    "diff",
    "gc",
    "forget",
    "schedule",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a source, a recipe, and a finished run of it."""
    folder = tmp_path_factory.mktemp("cli")
    glob = write_shards(folder / "in", planted(150, near=10))
    text = (
        f"run: {folder}/run\nsource: {{path: '{glob}', uid: id}}\nembed: {{column: embedding}}\n"
        "select: {keep: 0.3}\nmemory: 2GB\nworkers: 1\n"
    )
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    assert curate("run", folder / "recipe.yaml").code == 0
    return folder


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def kept(run):
    return open_run(run).manifest()["counts"]["kept"]


def test_alone_it_helps():
    said = curate()
    assert said.code == 0
    assert said.out.startswith("Usage: curate [OPTIONS] COMMAND")
    assert sorted(re.findall(r"^  (\w+)  ", said.out, re.MULTILINE)) == sorted(COMMANDS)
    assert said.err == ""


def test_version():
    said = curate("--version")
    assert (said.code, said.err) == (0, "")
    assert re.fullmatch(r"curate \d+\.\d+\.\d+\n", said.out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command):
    said = curate(command, "--help")
    assert said.code == 0
    assert said.out.startswith(f"Usage: curate {command} ")
    for option in re.findall(r"^  (?:-\w, )?(--[\w-]+)(.*(?:\n {10,}.*)?)", said.out, re.MULTILINE):
        assert len(option[1].split()) > 1, f"{command} {option[0]} says nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "No such command 'bogus'."),
        (["run"], "Missing argument 'recipe'."),
        (["filter", "x"], "Missing option '--out'."),
        (["filter"], "Missing argument 'source'."),
        (
            ["filter", "x", "--out", "y"],
            "nothing says what to keep: add --keep 0.3 (a share) or --count 1000",
        ),
        (["run", "x", "--bogus"], "No such option: --bogus"),
        (["filter", "x", "--out", "y", "--limit", "0"], "Invalid value for '--limit'"),
        (["run", "no.yaml"], "recipe no.yaml: No such file or directory"),
    ],
)
def test_wrong_usage(arguments, message):
    said = curate(*arguments)
    assert said.code == 2
    assert said.error.startswith(message)
    assert said.out == ""


def test_unknown_stage_leaves_no_folder(folder):
    said = curate("run", folder / "recipe.yaml", "--out", "new", "--until", "clustr")
    assert said.code == 2
    assert said.error.startswith("--until must be one of read, embed, cluster")
    assert not Path("new").exists()


def test_init_writes_a_recipe_that_loads():
    said = curate("init", "my.yaml", "--source", 'pics "1"/*.parquet')
    assert (said.code, said.out) == (0, "")
    assert "curate run my.yaml --dry-run" in said.err
    assert load_recipe("my.yaml").source[0].path == 'pics "1"/*.parquet'
    before = Path("my.yaml").read_bytes()
    said = curate("init", "my.yaml", "--source", "x")
    assert (said.code, said.error) == (2, "my.yaml is there already; name another file")
    assert Path("my.yaml").read_bytes() == before
    assert (
        curate("init", "no/my.yaml", "--source", "x").error
        == "cannot write no/my.yaml: No such file or directory"
    )
    said = curate("init", "other.yaml")
    assert (said.code, said.error.partition(",")[0]) == (2, "init needs --source")
    assert not Path("other.yaml").exists()


def test_a_run_tells_people_and_pipes_apart(folder):
    said = curate("run", folder / "recipe.yaml", "--out", "run", "--set", "dedup.epsilon=0.001")
    assert said.code == 0
    stages = list(
        dict.fromkeys(line.split(":")[0] for line in said.err.splitlines() if "warning" not in line)
    )
    assert stages[:8] == ["source", "read", "embed", "cluster", "score", "dedup", "select", "write"]
    assert "shards: run/6_filtered" in said.err
    assert said.err.splitlines()[-1] == "open: run/7_report/report.html"
    assert [line.split()[0] for line in said.out.splitlines()[:3]] == ["rows", "rows", "kept"]
    assert "dropped: near_duplicate" in said.out
    assert "\r" not in said.err + said.out
    assert "\x1b" not in said.err + said.out
    again = curate("run", folder / "recipe.yaml", "--out", "run", "--set", "dedup.epsilon=0.001")
    assert "run: nothing to do, everything is up to date" in again.err
    assert again.out == said.out


def test_json_is_alone_on_stdout(folder):
    said = curate("run", folder / "recipe.yaml", "--json", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["counts"]["kept"] == 45
    said = curate("run", folder / "recipe.yaml", "--json", "--out", "part", "--until", "embed")
    assert json.loads(said.out) == {"run": "part", "until": "embed", "worked": ["read", "embed"]}
    for command in ("inspect", "verify"):
        json.loads(curate(command, folder / "run", "--json").out)


def test_warnings_are_told_and_where_quiet_stay_in_the_log(folder):
    asked = ["run", folder / "recipe.yaml", "--set", "cluster.concepts=500"]
    said = curate(*asked, "--out", "run")
    warned = [line for line in said.err.splitlines() if line.startswith("warning: ")]
    assert [line.split(":")[1].split()[0] for line in warned] == [
        "cluster",
        "select.min_per_concept",
        "select",
    ]
    assert curate(*asked, "--out", "again", "--quiet").err == ""
    logged = "".join(file.read_text() for file in Path("again/logs").iterdir())
    assert all(line.removeprefix("warning: ") in logged for line in warned)


def test_until_then_the_rest(folder):
    assert curate("run", folder / "recipe.yaml", "--out", "run", "--until", "embed").code == 0
    assert not Path("run/2_concepts").exists()
    said = curate("run", folder / "recipe.yaml", "--out", "run")
    assert said.err.startswith("cluster: ")
    digests = {curate("verify", run, "--digest").out for run in ("run", folder / "run")}
    assert len(digests) == 1


def test_flags_of_run(folder):
    recipe = folder / "recipe.yaml"
    assert curate("run", recipe, "--out", "run", "--limit", "40", "--set", "select.keep=0.5").code == 0
    assert open_run("run").manifest()["counts"] == {
        "rows": 40, "kept": 20, "pinned": 0, "dropped": {"over_budget": 20}, "unusable": {},
    }  # fmt: skip
    assert curate("run", recipe, "--out", "run").code == 0, "a raised limit lets the run grow"
    assert "source.limit was None, is 30" in curate("run", recipe, "--out", "run", "--limit", "30").error
    assert curate("run", recipe, "--out", "run", "--force").code == 0
    assert kept("run") == 45
    assert curate("run", recipe, "--out", "run", "--set", "select.count=200").code == 1
    assert curate("run", recipe, "--out", "run", "--set", "select.count=200", "--at-most").code == 0
    assert kept("run") == 150
    refit = curate("run", recipe, "--out", "run", "--refit")
    assert "cluster: " in refit.err
    assert open_run("run").decisions().equals(open_run(folder / "run").decisions())


def test_out_is_taken_as_it_is(folder):
    for out in ("2024", "true", "a: b #c"):
        assert curate("run", folder / "recipe.yaml", "--out", out, "--until", "read").code == 0
        assert Path(out, "recipe.yaml").exists()


def test_limit_goes_to_every_source(folder):
    text = (
        f"run: m\nsource:\n- {{path: '{folder}/in/train-00000*', name: a}}\n- {{path: '{folder}/in/train-00001*', "
        "name: b}\nembed: {column: embedding}\nselect: {keep: 1}\nworkers: 1\n"
    )
    Path("r.yaml").write_text(text, encoding="utf-8")
    assert curate("run", "r.yaml", "--limit", "7").code == 0
    assert open_run("m").samples()["source"].value_counts().sort("source").rows() == [("a", 7), ("b", 7)]


def test_dry_run_writes_nothing(folder):
    said = curate("run", folder / "recipe.yaml", "--out", "run", "--dry-run")
    assert said.code == 0
    assert "rows               150" in said.out
    plan = json.loads(curate("run", folder / "recipe.yaml", "--out", "run", "--dry-run", "--json").out)
    assert (plan["rows"], plan["shards"], plan["recipe"]["run"]) == (150, 3, "run")
    assert plan["disk_bytes"] < 150 * 1000 + plan["source_bytes"]
    assert list(Path().iterdir()) == []


def test_filter_in_one_line(folder):
    glob = f"{folder}/in/*.parquet"
    said = own(
        glob, "a", "--epsilon", "drop=0.2", "--where", "distance < 0.9", "--where", "row >= 2", keep="20%"
    )
    assert said.code == 0
    recipe = load_recipe("a/recipe.yaml")
    assert recipe.filter == ("distance < 0.9", "row >= 2")
    assert recipe.dedup.epsilon.drop == 0.2
    assert recipe.select.keep == 0.2
    assert own(glob, "b", "--epsilon", "none", "--method", "random", "--count", "11", keep=None).code == 0
    assert kept("b") == 11
    assert own(glob, "c", "--epsilon", "1e-3", "--set", "select.method=prototypes").code == 0
    assert load_recipe("c/recipe.yaml").select.method == "prototypes"
    assert "got 'big'" in own(glob, "d", "--epsilon", "big").error


@pytest.mark.parametrize("vectors", ["v/*.npy", pytest.param("v/", marks=pytest.mark.long)])
def test_filter_takes_vectors_from_files(folder, vectors):
    import numpy as np

    Path("v").mkdir()
    for number, rows in enumerate(np.array_split(planted(150), 2)):
        np.save(f"v/{number}.npy", rows)
    said = curate("filter", f"{folder}/in/*.parquet", "--out", "a", "--keep", "0.3", "--vectors", vectors,
                  "--workers", "1")  # fmt: skip
    assert said.code == 0, said.err
    assert kept("a") == 45


def test_demo_runs_the_recipe_that_ships(monkeypatch):
    ran = []
    monkeypatch.setattr("curate.cli.run._execute", lambda recipe, **options: ran.append((recipe, options)))
    assert curate("demo", "--out", "x: y", "--quiet").code == 0
    [(recipe, options)] = ran
    assert recipe.run == "x: y"
    assert recipe.source[0].path == f"{sample_path()}/*.parquet"
    assert len(list(sample_path().glob("*.parquet"))) >= 1
    assert options == {"json_": False, "quiet": True}


def test_inspect(folder):
    said = curate("inspect", folder / "run", "--concepts", "3")
    assert (said.code, said.err) == (0, "")
    counts, concepts, *_ = said.out.split("\n\n")
    assert counts.splitlines()[1].split()[:3] == ["rows", "in", "150"]
    assert len(concepts.splitlines()) == 2 + 3
    facts = json.loads(curate("inspect", folder / "run", "--concepts", "3", "--json").out)
    largest = [row["n_eligible"] for row in facts["concepts"]]
    assert largest == sorted(largest, reverse=True)
    distance = next(row for row in facts["scores"] if row["score"] == "distance")
    column = open_run(folder / "run").scores()["distance"]
    assert (distance["p00"], distance["p100"], distance["n"]) == (column.min(), column.max(), 150)


def test_verify(folder):
    said = curate("verify", folder / "run")
    assert (said.code, said.err) == (0, "")
    assert "150 rows are as recorded" in said.out
    digest = curate("verify", folder / "run", "--digest").out
    assert re.fullmatch(r"[0-9a-f]{64}\n", digest)
    facts = json.loads(curate("verify", folder / "run", "--digest", "--json").out)
    assert facts["digest"] == digest.strip()


def test_a_terminal_is_not_given_orders(folder):
    evil = "\x1b]0;owned\x07 \x9b31m\u202ex"
    condition = f"nowhere != '{evil}'"
    glob = f"{folder}/in/*.parquet"
    said = own(glob, "run", "--where", condition)
    assert said.code == 2, "there is no such column, in the tables or the source"
    said2 = own(glob, "run", "--where", f"uid != '{evil}' AND row > 5")
    shown = curate("inspect", "run")
    spoken = curate("inspect", "run", "--json")
    for text in (said.err, said2.out, said2.err, shown.out, spoken.out):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
    assert evil in "".join(json.loads(spoken.out)["counts"]["dropped"])
    assert plain("a\nb\tc\x1b[1m é 漢 \ud800") == "a b c\\x1b[1m é 漢 \\ud800"


def test_unexpected_errors_keep_their_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("curate.cli.run._execute", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["demo"])


def test_interrupted(monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    codes = []
    monkeypatch.setattr("curate.cli.run._execute", stop)
    monkeypatch.setattr(os, "_exit", codes.append)
    said = curate("demo")
    assert codes == [130]
    assert said.err == "interrupted; run the same command again to go on where it stopped\n"


def outside(*arguments, **options):
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "curate", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_a_closed_pipe_is_quiet(folder):
    read, write = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "curate", "inspect", str(folder / "run")], stdout=write, stderr=subprocess.PIPE
    ) as process:
        os.close(read)
        os.close(write)
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")


def test_a_bug_exits_with_1_and_a_traceback(folder):
    code = "import curate.pipeline.runner, curate.cli; curate.pipeline.runner.run = None; curate.cli.main()"
    command = [sys.executable, "-c", code, "run", str(folder / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert "NoneType" in done.stderr


def test_a_terminal_sees_progress(folder):
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "curate", "run", str(folder / "recipe.yaml"), "--out", "run"],
        stdout=subprocess.PIPE, stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:  # fmt: skip
        os.close(slave)
        seen = b""
        while True:
            try:
                block = os.read(master, 65536)
            except OSError:
                break
            if not block:
                break
            seen += block
        table = process.stdout.read().decode()
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert "━".encode() in seen
    lines = [
        re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", line) for line in seen.decode().replace("\r", "\n").split("\n")
    ]
    for stage in ("read: 150 rows in 3 shards", "select: 150 eligible, 45 kept"):
        assert any(line.startswith(stage) for line in lines), lines
    assert table.splitlines()[1].split() == ["rows", "in", "150", "1.0000"]
    assert "\x1b" not in table


def test_starting_is_cheap():
    code = "import curate, curate.cli, sys; curate.cli._register(); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"torch", "faiss", "ray", "prefect", "polars", "pyarrow", "open_clip", "plotly"}
    assert heavy & set(loaded) == set()


def test_added_columns_are_written_and_datasets_loads_them(folder):
    from datasets import Dataset

    glob = f"{folder}/in/*.parquet"
    assert (
        own(glob, "run", "--set", "write.columns=[clip_score, weight, rank]", "--set", "source.uid=id").code
        == 0
    )
    rows = Dataset.from_parquet("run/6_filtered/*.parquet", cache_dir="cache")
    assert rows.column_names == ["embedding", "note", "id", "clip_score", "weight", "rank"]
    assert len(rows) == 45
    assert set(rows["weight"]) == {1.0}
    ranks = dict(open_run("run").decisions().filter("keep").select("uid", "rank").iter_rows())
    assert dict(zip(rows["id"], rows["rank"], strict=True)) == ranks


def test_small_shards_have_planned_names_and_keep_the_order(folder):
    glob = f"{folder}/in/*.parquet"
    size = ["--set", "write.max_shard_size=1KB", "--set", "source.uid=id"]
    assert own(glob, "run", *size, "--set", "write.path=copy", keep="1").code == 0
    names = sorted(path.name for path in Path("run/6_filtered").glob("*.parquet"))
    assert len(names) >= 3
    assert names == [f"train-{i:05d}-of-{len(names):05d}.parquet" for i in range(len(names))]
    ids = [uid for name in names for uid in pq.read_table(f"run/6_filtered/{name}")["id"].to_pylist()]
    assert ids == [f"s{i:06d}" for i in range(150)]
    for name in names:
        assert Path("copy", name).read_bytes() == Path("run/6_filtered", name).read_bytes()
    copied = Path("copy", names[0]).stat().st_mtime_ns
    assert own(glob, "run", *size, "--set", "write.path=copy", keep="1").code == 0
    assert Path("copy", names[0]).stat().st_mtime_ns == copied, "a copy is not made again"
    assert own(glob, "run", *size, "--set", "write.path=copy", keep="0.1").code == 0
    assert {path.name for path in Path("copy").glob("*.parquet")} == {
        path.name for path in Path("run/6_filtered").glob("*.parquet")
    }


def test_a_copy_never_replaces_what_curate_did_not_write(folder):
    before = {path.name: path.read_bytes() for path in (folder / "in").iterdir()}
    names = ["--set", "write.max_shard_size=1KB", "--set", f"write.path={folder}/in"]
    said = own(f"{folder}/in/*.parquet", "run", *names, keep="1")
    assert said.code == 2
    assert "holds other files (train-00000-of-00003.parquet); name an empty folder" in said.error
    assert {path.name: path.read_bytes() for path in (folder / "in").iterdir()} == before


def test_an_added_column_that_the_source_has_is_told(folder):
    source = pa.table(
        {"embedding": [row.tolist() for row in planted(20).astype("f4")], "rank": list(range(20))}
    )
    pq.write_table(source, "a.parquet")
    said = own("a.parquet", "run", "--set", "write.columns=[rank]")
    assert said.code in (1, 2)
    assert "rank" in said.error


def test_reading_a_run_takes_one_line(folder):
    assert len(pl.read_parquet(folder / "run/5_decisions/part-*.parquet")) == 150
