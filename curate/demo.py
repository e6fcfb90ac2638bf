"""Where the sample that ships with curate is, in a checkout and in an installed package."""

from pathlib import Path

from curate.errors import UsageError

__all__ = ["recipe_path", "sample_path"]


def _data() -> Path:
    here = Path(__file__).parent
    for folder in (here / "data", here.parent / "data"):
        if (folder / "sample").is_dir():
            return folder
    raise UsageError("the sample is not installed; clone the repository and run `make demo` there")


def sample_path() -> Path:
    """Return the folder of the sample's shards."""
    return _data() / "sample"


def recipe_path() -> Path:
    """Return the sample's recipe."""
    return _data() / "recipes" / "sample.yaml"
