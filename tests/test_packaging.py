"""What is installed: every file that the code opens, under the names that it opens them by; and it runs from there."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = PROJECT["tool"]["setuptools"]
#: What there is in the repository, beside which lie what runs, builds and tools leave.
TOP = [
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "README.md", "benchmarks", "constraints.txt", "curate", "data",
    "docs", "flows", "pyproject.toml", "tests",
]  # fmt: skip
#: Files that are not code, one or more of each folder.
NEEDED = [
    "py.typed",
    "cli/recipe.yaml",
    "data/recipes/filters/adapter.yaml",
    "data/recipes/sample.yaml",
    "data/recipes/things.txt",
    "data/sample/train-00003-of-00004.parquet",
    "embedding/tiny/MODEL_CARD.md",
    "embedding/tiny/model.safetensors",
    "embedding/tiny/tiny.json",
    "flows/prefect.yaml",
    "report/static/main.js",
    "report/static/style.css",
    "report/templates/page.html",
]


def in_wheel():
    """Return the files that the wheel has by the tables of pyproject.toml: name in the wheel, and file."""
    found = {}
    for package in SETUP["packages"]:
        name = package.replace(".", "/")
        folder = ROOT / SETUP["package-dir"].get(package, name)
        for pattern in ["*.py", *SETUP["package-data"].get(package, [])]:
            found |= {f"{name}/{file.name}": file for file in folder.glob(pattern)}
    return found


def test_packages_are_listed():
    """The wheel holds every folder of the package, every data file in it, the flows, the sample and the recipes."""
    trees = [ROOT / "curate", ROOT / "flows", ROOT / "data" / "sample", ROOT / "data" / "recipes"]
    files = {
        path
        for tree in trees
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == set(in_wheel().values())
    assert {f"curate/{name}" for name in NEEDED} <= in_wheel().keys()
    assert all((ROOT / folder).is_dir() for folder in SETUP["package-dir"].values())


def test_supported_versions_are_said_once_each():
    project = PROJECT["project"]
    said = re.findall(r"Python :: (3\.\d+)'", str(project["classifiers"]))
    assert said == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={said[0]}"
    assert all(version in (ROOT / "docs" / "install.md").read_text() for version in said)


# --- built, installed, run from another folder


def run(*command, folder, site=None):
    """Run a command to its end in a folder, with what is installed in `site` before all else; return its stdout."""
    env = os.environ | {"PYTHONPATH": "" if site is None else str(site)}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        check=False,
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel made from it, as `python -m build` makes them; setuptools leaves files where it works."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(
        ROOT, folder / "checkout", symlinks=True,
        ignore=lambda at, names: {
            name for name in names
            if name == "__pycache__" or (Path(at) == ROOT and name not in TOP)
        },
    )  # fmt: skip
    make = f"import setuptools.build_meta as b; b.build_sdist({str(folder)!r})"
    run("-c", make, folder=folder / "checkout")
    (sdist,) = folder.glob("*.tar.gz")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run("-m", "pip", "wheel", *offline, "--wheel-dir", folder, sdist, folder=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def site(built, tmp_path_factory):
    """A folder that the wheel alone is installed in; what it needs is that of the tests."""
    folder = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    run("-m", "pip", "install", *offline, "--target", folder, built[1], folder=folder)
    return folder


@pytest.mark.long
def test_wheel_and_sdist_hold_what_they_should(built):
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        said = archive.read(metadata).decode()
    assert names == in_wheel().keys()
    assert "Classifier: Typing :: Typed" in said
    assert "Author: curate maintainers" in said
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {str(file.relative_to(ROOT)) for file in in_wheel().values()} <= inside
    assert {"constraints.txt", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"} <= inside
    assert not [name for name in inside if name.split("/")[0] in ("tests", "benchmarks", "runs")]


@pytest.mark.long
def test_the_installed_package_runs_away_from_the_checkout(site, tmp_path):
    where = run("-c", "import curate; print(curate.__file__)", folder=tmp_path, site=site)
    assert Path(where.strip()).is_relative_to(site)
    version = f"curate {PROJECT['project']['version']}\n"
    assert run("-m", "curate", "--version", folder=tmp_path, site=site) == version
    assert run(site / "bin" / "curate", "--version", folder=tmp_path, site=site) == version
    assert "filter" in run("-m", "curate", "--help", folder=tmp_path, site=site)
    assert "density" in run("-m", "curate", "methods", folder=tmp_path, site=site)
    run("-m", "curate", "init", "--source", site / "curate/data/sample", folder=tmp_path, site=site)
    said = run(
        "-m", "curate", "filter", site / "curate/data/sample/train-00000-of-00004.parquet", "--limit", "60",
        "--model", "tiny", "--keep", "0.5", "--workers", "1", "--out", "run", folder=tmp_path, site=site,
    )  # fmt: skip
    assert re.search(r"rows in +60", said)
    page = run("-m", "curate", "report", "run", folder=tmp_path, site=site).strip()
    assert "</html>" in (tmp_path / page).read_text()
    flow = "from curate.flows import pipeline; print(pipeline.__file__)"
    assert Path(run("-c", flow, folder=tmp_path, site=site).strip()).is_relative_to(site)
    recipe = "import curate.cli.demo as d; print(d.recipe_path())"
    assert Path(run("-c", recipe, folder=tmp_path, site=site).strip()).is_relative_to(site)
