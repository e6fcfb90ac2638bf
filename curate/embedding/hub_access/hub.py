"""Whether the hub of models can be reached, found out in seconds: its own client would retry for 46."""

import contextlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

__all__ = ["asked_for", "cannot_get", "has_cached", "offline", "why_unreachable"]

HUB = "https://huggingface.co"
#: How long the hub may take to answer, looking up its name included.
SECONDS = 5.0


def why_unreachable() -> str | None:
    """Return why the model hub cannot be reached, or None where it can.

    ``HF_HUB_OFFLINE`` counts as a reason: nothing is sent then. ``HF_ENDPOINT`` is another hub.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    url = os.environ.get("HF_ENDPOINT", HUB)
    found: list[str | None] = []
    # In a thread, because no timeout holds for the look-up of a name.
    look = threading.Thread(target=lambda: found.append(_why_no_answer(url)), daemon=True, name="hub")
    look.start()
    look.join(SECONDS)
    return found[0] if found else f"{url} cannot be reached (no answer in {SECONDS:.0f} s)"


def _why_no_answer(url: str) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=SECONDS):
            return None
    except urllib.error.HTTPError:
        return None  # it answers
    except (OSError, ValueError) as error:
        return f"{url} cannot be reached ({getattr(error, 'reason', error)})"


def has_cached() -> bool:
    """Return True if any weights were ever downloaded by the hub's client, or by open_clip from elsewhere."""
    from huggingface_hub import constants

    own = Path("~/.cache/clip").expanduser()
    return any(Path(constants.HF_HUB_CACHE).glob("models--*")) or any(own.glob("*"))


def asked_for(model: str, weights: str | None) -> str:
    """Return what a model is called in messages."""
    return model if weights is None else f"{model} with weights {weights}"


def cannot_get(asked: str, reason: str) -> str:
    """Return the message for a model that cannot be had, with the way on."""
    return (
        f"cannot get {asked}: {reason}. Either use the small model that ships with curate (embed.model: tiny), or "
        "give weights that were downloaded elsewhere (embed.pretrained: /path/to/checkpoint)"
    )


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let the hub's client use its cache and nothing else."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
