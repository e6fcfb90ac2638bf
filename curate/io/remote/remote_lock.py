"""One writer per URL: a lock object that is created only where there is none, and how to tell that its holder is dead.

A store that cannot create an object on that condition keeps no lock; such a run is refused unless it is told that
nobody else writes there.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from curate.errors import RunError
from curate.io.lock import is_same_process, machine, started_at
from curate.io.remote.store import LOCK, RemoteStore
from curate.io.remote.working_copy import work_under
from curate.io.retries import again

__all__ = ["BEAT_S", "EXPIRES_S", "held"]

#: How often a holder says that it lives.
BEAT_S = 15.0
#: A holder that has said nothing for this long is watched for two more beats, and then taken to be dead.
EXPIRES_S = 120.0
#: How long after a takeover it is looked whether another process has done the same.
SETTLE_S = 1.0


@contextlib.contextmanager
def held(store: RemoteStore) -> Iterator[None]:
    """Hold a URL for writing; raises RunError naming who else holds it, or where the store keeps no lock."""
    own = {"host": socket.gethostname(), "pid": os.getpid(), "started": started_at(os.getpid())}
    own |= {"since": time.strftime("%Y-%m-%d %H:%M:%S"), "token": secrets.token_hex(8), "machine": machine()}
    _take(store, own)
    work_under(store.copy.root, str(own["token"]))
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(store, own, stop), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stop.set()
        beat.join(timeout=BEAT_S)
        work_under(store.copy.root, None)
        with contextlib.suppress(RunError):
            if _holder(store).get("token") == own["token"]:
                with store.explained("remove", LOCK):
                    store.fs.rm_file(store.at(LOCK))


def _take(store: RemoteStore, own: Mapping[str, object]) -> None:
    while not _create(store, own):
        holder = _holder(store)
        if not holder:
            continue  # given back this moment
        if holder.get("token") == own["token"]:
            break  # the answer was lost on its way, and the store asked once more
        if _is_alive(store, holder):
            raise RunError(
                f"{store.url} is being written by process {holder.get('pid')} on {holder.get('host')} since "
                f"{holder.get('since')}; wait for it or stop it"
            )
        if _holder(store) == holder:
            with store.explained("remove", LOCK), contextlib.suppress(FileNotFoundError):
                store.fs.rm_file(store.at(LOCK))
        if _create(store, own):
            time.sleep(SETTLE_S)
            break
    if _holder(store).get("token") != own["token"]:
        raise RunError(f"{store.url}: another process took it at the same moment; run again")
    if _create(store, own):
        raise RunError(
            f"{store.url}: this store keeps no lock (it writes an object anew where there is one); make sure that nobody "
            "else writes there, and say so with --no-lock"
        )


def _create(store: RemoteStore, own: Mapping[str, object]) -> bool:
    """Create the lock; False where there is one."""
    text = json.dumps({**own, "beat": time.time()}).encode()
    with store.explained("write", LOCK):
        try:
            store.fs.pipe_file(store.at(LOCK), text, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):
            raise RunError(
                f"{store.url}: this store keeps no lock; make sure that nobody else writes there, and say so with --no-lock"
            ) from None
    return True


def _holder(store: RemoteStore) -> dict[str, Any]:
    """Return what the lock says; empty if there is none."""
    store.fs.invalidate_cache()
    try:
        found = json.loads(store.read(LOCK) or b"{}")
    except ValueError:
        return {"host": "a host that wrote no sense"}
    return found if isinstance(found, dict) else {}


def _is_alive(store: RemoteStore, holder: Mapping[str, Any]) -> bool:
    if holder.get("machine") == machine():
        return is_same_process(holder)
    beat = holder.get("beat")
    if isinstance(beat, int | float) and abs(time.time() - beat) < EXPIRES_S:
        return True
    time.sleep(2 * BEAT_S)  # the clocks may differ
    return _holder(store) not in (holder, {})


def _beat(store: RemoteStore, own: Mapping[str, object], stop: threading.Event) -> None:
    """Say from time to time that the holder lives, until another has taken its place."""
    while not stop.wait(BEAT_S):
        with contextlib.suppress(RunError):
            if _holder(store).get("token") != own["token"]:
                return
            text = json.dumps({**own, "beat": time.time()}).encode()
            with store.explained("write", LOCK):
                again(partial(store.fs.pipe_file, store.at(LOCK), text), store.url)
