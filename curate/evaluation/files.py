"""What an evaluation leaves behind: a summary, a table of all models, the rows they were trained on, and a page."""

from pathlib import Path
from typing import TYPE_CHECKING

from curate.errors import UsageError
from curate.io import storage
from curate.report import evaluation_figure
from curate.runs.folder import RunFolder

if TYPE_CHECKING:
    from curate.evaluation.evaluate import Evaluation

__all__ = ["check_out", "out_folder", "write_evaluation"]


def out_folder(run: RunFolder, out: str | Path | None) -> Path:
    """Return the folder for the files: as asked, else `evaluation` in the run."""
    return run.evaluation if out is None else Path(out)


def check_out(run: RunFolder, out: str | Path | None) -> None:
    """Raise UsageError where the files cannot be written, before anything is computed."""
    folder = out_folder(run, out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder")


def write_evaluation(found: "Evaluation", folder: Path) -> None:
    """Write `rows.parquet`, `cells.parquet`, `evaluation.html` and, last, `evaluation.json`."""
    for name, frame in (("rows", found.rows), ("cells", found.cells)):
        with storage.atomic(folder / f"{name}.parquet") as partial:
            frame.write_parquet(partial)
    with storage.atomic(folder / "evaluation.html") as partial:
        partial.write_text(evaluation_figure.page(found.summary), encoding="utf-8")
    storage.write_json(folder / "evaluation.json", found.summary)
