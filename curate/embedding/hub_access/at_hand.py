"""Whether the model of a run can be had, asked before any row is read.

A first run without a network is told so within the time that the hub may take to answer: where nothing was ever
downloaded, neither torch nor open_clip is loaded to find out.
"""

from importlib.util import find_spec
from pathlib import Path

from curate.embedding.hub_access.hub import asked_for, cannot_get, has_cached, why_unreachable
from curate.errors import ModelError

__all__ = ["check"]


def check(model: str, pretrained: str | None = None) -> None:
    """Raise ModelError for a model or weights that cannot be had; parameters are those of `clip.load`."""
    if model == "tiny" and pretrained is None:
        return
    if _is_published(model, pretrained) and not has_cached():
        if reason := why_unreachable():
            raise ModelError(cannot_get(asked_for(model, pretrained), reason))
        return
    from curate.embedding import clip

    clip.check(model, pretrained)


def _is_published(model: str, pretrained: str | None) -> bool:
    """Whether weights are named by a tag, of an architecture that open_clip has: it is looked up without loading it."""
    found = find_spec("open_clip")
    if found is None or pretrained is None or "/" in pretrained or Path(pretrained).exists():
        return False
    folders = found.submodule_search_locations or ()
    return any(Path(folder, "model_configs", f"{model}.json").is_file() for folder in folders)
