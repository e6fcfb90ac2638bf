"""The site of docs: pages that are made are as their makers make them, it builds without a warning, and notebooks run."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
JOBS = sorted((ROOT / "docs/jobs").glob("*.ipynb"))


def script(name):
    """Return a script of docs as a module."""
    found = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_as_the_models_have_them():
    made = script("make_recipe").page()
    assert made == (ROOT / "docs/recipe.md").read_text(encoding="utf-8"), "python docs/make_recipe.py"
    assert "| `epsilon` |" in made and "near-duplicates: similarity above 1 - epsilon" in made


def test_the_site_builds_without_a_warning(tmp_path):
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, env=quiet, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {
        "index.html",
        "recipe.html",
        "jobs/labels.html",
        "benchmarks/RESULTS.html",
        "reference.html",
    } <= pages
    every = "".join((tmp_path / "site" / page).read_text(encoding="utf-8") for page in pages)
    assert 'id="curate.filter"' in every and 'id="curate.Run.explain"' in every
    for outside in ("fonts.googleapis.com", "cdn.jsdelivr.net", "unpkg.com", "cdnjs"):
        assert f'src="https://{outside}' not in every and f'href="https://{outside}' not in every, outside


@pytest.mark.parametrize(
    "job",
    [pytest.param(job, id=job.stem, marks=() if job.stem == "weights" else pytest.mark.long) for job in JOBS],
)
def test_the_notebook_runs(job, tmp_path):
    assert script("make_notebooks").executed(job, str(tmp_path)).cells


def test_notebooks_show_what_they_found_and_no_place_of_a_machine():
    assert len(JOBS) == 5
    for job in JOBS:
        text = job.read_text(encoding="utf-8")
        assert '"output_type": "execute_result"' in text, job.name
        assert "/tmp/" not in text and "/home/" not in text and "site-packages" not in text, job.name
