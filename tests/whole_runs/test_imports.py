"""What the processes of a run load: a guard against a library that comes in by the way and costs more than the work."""

import os
import subprocess
import sys

import polars as pl
import pytest
import yaml

#: Libraries that no run with vectors of its own needs.
NOT_NEEDED = {"pandas", "torch", "open_clip", "sklearn", "scipy", "plotly", "duckdb", "prefect", "ray"}
ROWS = 60


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imports")
    for shard in range(2):
        rows = range(shard * ROWS // 2, (shard + 1) * ROWS // 2)
        pl.DataFrame(
            {
                "uid": [f"s{row}" for row in rows],
                "caption": [f"thing {row % 5}" for row in rows],
                "vector": [[1.0 + row % 4, row % 3 - 0.5, 0.1 * row] for row in rows],
            }
        ).write_parquet(folder / f"{shard}.parquet")
    return folder


def loaded(source, out, **more):
    """Return the packages that the processes of a run imported, and how many processes there were."""
    recipe = {
        "run": str(out), "source": {"path": str(source / "*.parquet"), "uid": "uid"}, "embed": {"column": "vector"},
        "cluster": {"concepts": 4}, "select": {"keep": 0.5}, **more,
    }  # fmt: skip
    out.with_suffix(".yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "curate", "run", str(out.with_suffix(".yaml"))],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = [line.rpartition("|")[2].strip() for line in lines]
    # What is looked for and not found has a line too, but no modules below it.
    return {name.partition(".")[0] for name in names if "." in name}, names.count("site")


def test_a_small_run_and_one_with_nothing_to_do_load_what_they_need_in_one_process(source, tmp_path):
    first, processes = loaded(source, tmp_path / "run")
    assert processes == 1
    assert not first & NOT_NEEDED
    again, processes = loaded(source, tmp_path / "run")
    assert processes == 1
    assert not again & (NOT_NEEDED | {"jinja2"})


def test_workers_load_no_pandas(source, tmp_path):
    modules, processes = loaded(source, tmp_path / "run", workers=2)
    assert processes >= 3
    assert not modules & NOT_NEEDED


def test_pandas_is_there_for_whoever_imports_it():
    code = (
        "from curate.io.without_pandas import keep_pandas_out; keep_pandas_out(); keep_pandas_out()\n"
        "import curate.schema, sys, pyarrow as pa\n"
        "curate.schema.KEYS.empty_table(); assert sum(type(f).__name__ == '_Refusal' for f in sys.meta_path) == 1\n"
        "import pandas\n"
        "frame = pandas.DataFrame({'a': [1, None], 'b': pandas.Categorical(['x', 'y'])})\n"
        "assert pa.Table.from_pandas(frame).to_pandas().equals(frame)\n"
        "assert pa.types.is_dictionary(pa.array(frame['b']).type)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
