"""Bounding the working copy of a run at a URL: files that were not read for a while go, their empty places stay."""

import contextlib
import fcntl

from curate.home.copy import HOME, Copy

__all__ = ["GRACE_S", "make"]

#: What was read or written so recently stays, whatever the bound: it may be opened this very moment.
GRACE_S = 60.0


def make(copy: Copy, bound: int) -> None:
    """Let files go, those not used for the longest time first, until the others take at most `bound` bytes.

    Only files that are at the URL go. One that is open stays readable for who has it open.
    """
    import time

    with (copy.root / HOME / "room").open("w") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = {name: state for name, state in copy.states().items() if copy.is_here(name, state)}
        taken, now = sum(state.size for state in there.values()), time.time()
        for name in sorted(there, key=copy.last_used):
            if taken <= bound or now - copy.last_used(name) < GRACE_S:
                break
            copy.leave_place(name, there[name].version, there[name].size)
            taken -= there[name].size
