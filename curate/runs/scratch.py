"""A run to try things on: in a temporary folder, with the files of another run behind its own names."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from curate.io import storage
from curate.io.remote.working_copy import COPY_FOLDER
from curate.runs.folder import RunFolder

__all__ = ["scratch_copy"]

#: What stages up to the decisions do not read.
_LEFT_OUT = {
    ".": {"6_filtered", "7_report", "evaluation", "logs", "manifest.json", "concept_names.json", COPY_FOLDER},
    ".work": {"undo"},
}


@contextlib.contextmanager
def scratch_copy(run: RunFolder) -> Iterator[RunFolder]:
    """Give a copy of a run, up to its decisions, that stages may change; it is gone afterwards.

    It takes no space: its files are links to those of the run. Stages replace files and never write into one, so that
    nothing they do reaches the run. Files of a run at a URL are fetched.
    """

    def left_out(folder: str, names: Iterable[str]) -> set[str]:
        own = _LEFT_OUT.get(os.path.relpath(folder, run.path), set())
        return {name for name in names if name in own or name.startswith(".lock") or storage.PARTIAL in name}

    with TemporaryDirectory(prefix="curate-scratch-") as root:
        copy = RunFolder(Path(root) / "run")
        shutil.copytree(run.path, copy.path, copy_function=_link, ignore=left_out)
        yield copy


def _link(source: str | Path, target: str | Path) -> None:
    Path(target).symlink_to(storage.ensure_local(Path(source)).resolve())
