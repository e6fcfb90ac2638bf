"""Make small data sets with the libraries that people make theirs with: what tests/producers/made holds.

    python tests/producers/make.py                      # all of them
    python tests/producers/make.py pandas_csv coco      # some

Libraries whose pins clash with ours get environments of their own, below --environments. Each data set has the rows of
truth.py, as far as its form can hold them; made/README.md says which version made it. Rows, names and values are the
same each time; times inside of files, and what a newer library writes otherwise, are not.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.producers import by_datasets, by_frames, by_pictures  # noqa: F401  (they register what they make)
from tests.producers.registry import PRODUCERS

#: What pip installs into an environment; `tests` is the one that this script was started in.
ENVIRONMENTS = {
    "tests": [],
    "pandas2": ["pandas==2.2.3", "numpy<2.3", "pyarrow", "pillow"],
    "img2dataset": ["img2dataset==1.47.0", "pillow"],
    # Its own pins (numpy<2, pyarrow<16, torch, ...) are for computing vectors; its writer needs none of them.
    "clip_retrieval": ["--no-deps", "clip-retrieval==2.45.0", "pandas==2.2.3", "numpy<2.3", "pyarrow", "fsspec", "pillow",
                       "python-dateutil", "pytz", "tzdata", "six"],
    "webdataset": ["webdataset==1.0.2", "numpy", "pillow"],
    "pycocotools": ["pycocotools", "pillow"],
}  # fmt: skip
#: Their files name the place where they lie, so they cannot be kept: tests make them anew.
MADE_BY_TESTS = ("iceberg",)


def python_of(environment: str, folder: Path) -> str:
    """Return the interpreter of an environment, which is made where it is not there."""
    if environment == "tests":
        return sys.executable
    home = folder / environment
    python = home / "bin" / "python"
    if not (home / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *ENVIRONMENTS[environment]], check=True
        )
        (home / ".ready").touch()
    return str(python)


def make_here(name: str, out: Path) -> str:
    """Make one data set with the libraries of this interpreter; return which they are."""
    made = PRODUCERS[name]
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made.make(folder)
    return ", ".join(f"{library} {version(library)}" for library in made.libraries)


def write_versions(out: Path, told: Path, versions: dict[str, str]) -> None:
    """Write which libraries made what, for the next call and as a page."""
    told.write_text(json.dumps(versions, indent=1) + "\n")
    lines = [
        f"| `{name}` | {versions[name]} | {PRODUCERS[name].what} |" for name in PRODUCERS if name in versions
    ]
    head = "| folder | made by | what |\n|---|---|---|\n"
    intro = "Made by `python tests/producers/make.py`, with the rows of `truth.py`."
    (out / "README.md").write_text(f"{intro}\n\n{head}" + "\n".join(lines) + "\n")


def main():
    """Make the data sets that are asked for, each in its environment, and say what made them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which; all by default")
    parser.add_argument("--out", type=Path, default=HERE / "made")
    parser.add_argument("--environments", type=Path, default=Path(tempfile.gettempdir()) / "producers")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        (name,) = given.names
        print("made by:", make_here(name, given.out))
        return
    told = given.out / "versions.json"
    versions = json.loads(told.read_text()) if told.exists() else {}
    for name in given.names or [name for name in PRODUCERS if name not in MADE_BY_TESTS]:
        python = python_of(PRODUCERS[name].environment, given.environments)
        done = subprocess.run(
            [python, __file__, "--here", name, "--out", str(given.out)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        versions[name] = done.stdout.splitlines()[-1].removeprefix("made by: ")
        print(f"{name}: {versions[name]}")
        write_versions(given.out, told, versions)


if __name__ == "__main__":
    main()
