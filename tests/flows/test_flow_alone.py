"""The flow without a server of its own: versions it needs, names of files, what is transient, what artifacts say, its script."""

import doctest
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement

from curate.errors import BudgetError, CurateError, ModelError, RecipeError, RunError
from tests.fixtures.builders import recipe_values
from tests.fixtures.flow_runs import ROOT, SCRIPT, decisions, processes_with, ran, wait_for


@pytest.fixture(scope="module")
def flows(home):
    """The flow's module; no test of this file asks a server."""
    from curate.flows import pipeline

    return pipeline


def test_pins():
    """Beside newer versions no flow starts (FastAPI), or no schedule ever fires (SQLAlchemy), unseen."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {need.name: need.specifier for need in map(Requirement, project["dependencies"])}
    for name, broken in {"fastapi": "0.151.0", "sqlalchemy": "2.1.0", "prefect": "3.9.0"}.items():
        assert not needs[name].contains(broken)
        assert needs[name].contains(metadata.version(name))


def test_no_flow_file_shadows_the_package():
    names = {path.stem for path in (ROOT / "flows").glob("*.py")}
    assert "pipeline" in names
    assert not names & ({"curate", "prefect"} | sys.stdlib_module_names)


@pytest.mark.flow
def test_is_transient(flows):
    refused = RunError("cannot write x: the disk is full")
    refused.__cause__ = OSError(28, "No space left on device")
    for error in (refused, CurateError("a worker process died"), TimeoutError(), MemoryError()):
        assert flows.is_transient(error)
    for error in (RecipeError("x"), BudgetError("x"), ModelError("no model is called x")):
        assert not flows.is_transient(error)


@pytest.mark.flow
def test_examples(flows):
    from curate.flows import artifacts, reports

    assert doctest.testmod(artifacts) == (0, 3)
    assert doctest.testmod(reports) == (0, 1)


@pytest.mark.flow
def test_concepts_are_shown_by_their_names(flows):
    import polars as pl

    from curate import schema
    from curate.flows import artifacts

    plain = pl.DataFrame(schema.DECISION_CONCEPTS.empty_table()).clear(1)
    largest = plain.with_columns(name=pl.lit("red | car"), share=pl.lit(0.5))
    for frame, names in ((largest, ["concept", "name"]), (plain, ["concept", "n_eligible"])):
        [row] = artifacts.concept_rows(SimpleNamespace(listed={"largest": frame}))
        assert list(row)[:2] == names and "share" not in row
        assert row.get("name") in ("red | car", None)


@pytest.mark.flow
@pytest.mark.long
def test_script_starts_and_stops_its_own_server(shards, plain, tmp_path):
    """Also when it is terminated: Prefect alone would leave the server running."""
    home = tmp_path / "home"
    values = recipe_values(shards, "out", workers=2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home)}
    command = [sys.executable, SCRIPT, "recipe.yaml"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    assert wait_for(lambda: "Beginning flow run" in (tmp_path / "log").read_text(), 150)
    assert any("uvicorn" in line for line in processes_with(home))
    process.terminate()
    assert process.wait(30) == 143
    assert wait_for(lambda: not processes_with(home), 10), processes_with(home)
    assert not (tmp_path / "out" / ".lock").exists()

    done = ran(command, tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert decisions(tmp_path / "out") == decisions(plain[0])
    assert wait_for(lambda: not processes_with(home), 10), processes_with(home)
