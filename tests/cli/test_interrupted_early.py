"""Ctrl-C, or a module that cannot be imported, while the command line is still being loaded."""

import subprocess
import sys

import pytest

INTERRUPT_WHILE_LOADING = """
import runpy, sys

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.argv = ["curate", "--help"]
runpy.run_module("curate", run_name="__main__")
"""


def test_ctrl_c_while_it_is_loaded_ends_with_130_and_no_traceback():
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPT_WHILE_LOADING], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted; nothing was begun\n")


WITHOUT = """
import sys
from curate.__main__ import main

sys.modules["NAME"] = None
main(["inspect", "nowhere"])
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        (
            "decimal",
            1,
            "error: import of decimal halted; None in sys.modules: a part of Python or a package is missing",
        ),
        ("curate.recipe", 1, "Traceback"),
    ],
)
def test_a_part_of_python_that_cannot_be_read_is_one_line_and_a_fault_of_ours_is_none(name, code, said):
    """As for a user who may not read the folder that Python is installed in."""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT.replace("NAME", name)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == code and ended.stderr.startswith(said)
    assert (len(ended.stderr.splitlines()) == 1) == said.startswith("error")
