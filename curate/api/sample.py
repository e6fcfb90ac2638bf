"""The sample that ships with curate, in a checkout and in an installed package."""

from pathlib import Path

from curate.errors import UsageError

__all__ = ["data_path", "sample_path"]


def data_path() -> Path:
    """Return the folder of what ships beside the code: the sample and recipes for it; raises UsageError where it is not."""
    package = Path(__file__).parents[1]
    for folder in (package / "data", package.parent / "data"):
        if (folder / "sample").is_dir():
            return folder
    raise UsageError("the sample is not installed; clone the repository and run `make demo` there")


def sample_path() -> Path:
    """Return the folder of the 2,000 pairs of images and captions that ship with curate, four Parquet shards.

    Among them are planted copies, near-copies, wrong captions and broken images, named in columns of their own.

    Returns
    -------
    Path
        The folder, to give to `curate.filter` or a recipe.

    Raises
    ------
    UsageError
        If the sample is not installed.

    Examples
    --------
    >>> import curate
    >>> len(list(curate.sample_path().glob("*.parquet")))
    4
    """
    return data_path() / "sample"
