"""Garbage is not looked for while modules are loaded, and it is from then on."""

import gc
import subprocess
import sys

import pytest

from curate.process import loading

#: Prints, when a command is run, whether garbage is looked for, and whether what was loaded is left out.
SCRIPT = """
import gc
from curate import __main__
from curate.cli import app

app.write = lambda text: print(gc.isenabled(), gc.get_freeze_count() > 10_000)
__main__.main(["--version"])
"""


def test_a_command_looks_for_garbage_but_not_among_what_was_loaded():
    found = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["True", "True"]


def test_in_a_process_of_others_nothing_is_left_out():
    before = gc.get_freeze_count()
    with pytest.raises(ZeroDivisionError), loading():
        assert not gc.isenabled()
        1 / 0  # noqa: B018
    assert gc.isenabled()
    assert gc.get_freeze_count() == before
