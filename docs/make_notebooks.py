"""Runs the notebooks of docs/jobs and writes what they show into them; without names all.

`python docs/make_notebooks.py [duplicates ...]`
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

JOBS = Path(__file__).with_name("jobs")


def executed(path: Path, folder: str) -> nbformat.NotebookNode:
    """Return a notebook with what it shows, run in a folder of its own. Raises CellExecutionError."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if (
            cell.cell_type == "code"
        ):  # what is told while it runs is no result, and names folders of this machine
            cell.outputs = [one for one in cell.outputs if one.output_type != "stream"]
    return notebook


def main() -> None:
    """Run the notebooks that are named."""
    for path in sorted(JOBS.glob("*.ipynb")):
        if not sys.argv[1:] or path.stem in sys.argv[1:]:
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(executed(path, folder), path)
            print(f"ran {path.name}")


if __name__ == "__main__":
    main()
