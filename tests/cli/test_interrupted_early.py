"""Ctrl-C while the command line is still being loaded."""

import subprocess
import sys

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
