"""Bounding the working copy of a run at a URL: files that were not read for a while go, their empty places stay."""

import fcntl
import time

from curate.io.remote.cache import Copy

__all__ = ["GRACE_S", "make"]

#: What was read or written so recently stays, whatever the bound: it may be opened this very moment.
GRACE_S = 60.0


def make(copy: Copy, bound: int) -> None:
    """Let files go, those not used for the longest time first, until the others take at most `bound` bytes.

    Only files that are at the URL go. One that is open stays readable for who has it open.
    """
    there = {name: state for name, state in copy.states().items() if copy.is_here(name, state)}
    taken = sum(state.size for state in there.values())
    for name in sorted(there, key=copy.last_used):
        if taken <= bound:
            break
        with copy.room(fcntl.LOCK_EX):
            if time.time() - copy.last_used(name) < GRACE_S or copy.state(name) != there[name]:
                continue
            copy.leave_place(name, there[name].version, there[name].size)
        taken -= there[name].size
