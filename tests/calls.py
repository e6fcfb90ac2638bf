"""Calling the command line inside this process, as a user would."""

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

import pytest

from curate import cli


@dataclass(frozen=True)
class Said:
    """What a call said: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def error(self):
        """The error of a failed call: exactly one line, the last."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0].removeprefix("error: ")


def curate(*arguments):
    """Run the command line; return what it said."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return Said(ended.value.code, out.getvalue(), err.getvalue())


def own(source, out, *more, keep="0.3"):
    """Filter a source with the vectors in its column `embedding`."""
    budget = [] if keep is None else ["--keep", keep]
    small = ["--vectors", "embedding", "--workers", "1", "--set", "memory=2GB"]
    return curate("filter", source, "--out", out, *small, *budget, *more)
