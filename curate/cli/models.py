"""Which CLIP models can embed: that which ships, and those whose weights open_clip can fetch."""

from typing import Annotated

import typer

from curate.cli import options as flag
from curate.cli.app import app
from curate.cli.output import emit, write
from curate.errors import UsageError

__all__ = ["models"]


@app.command()
def models(
    part: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Only models whose names, or weights', hold this.")
    ] = None,
    json_: flag.Json = False,
) -> None:
    """Say which CLIP models there are, with the weights that can be had for each (embed.model, embed.pretrained)."""
    found = {name: tags for name, tags in _known().items() if _holds(name, tags, part)}
    if not found:
        raise UsageError(f"no model, and no weights, with {part!r} in the name; curate models lists them all")
    if json_:
        emit([{"model": name, "pretrained": tags} for name, tags in found.items()])
        return
    width = max(map(len, found))
    for name, tags in found.items():
        write(f"{name:<{width}}  {', '.join(tags) or 'ships with curate, for trying things out'}\n")
    write("weights in a file of yours: --pretrained FILE\n")


def _known() -> dict[str, list[str]]:
    """Return the names of weights of each model; none for the one that ships."""
    from curate.embedding.clip import TINY
    from curate.embedding.torchvision_guard import import_open_clip

    found: dict[str, list[str]] = {TINY: []}
    for name, tag in import_open_clip().list_pretrained():
        found.setdefault(name, []).append(tag)
    return found


def _holds(name: str, tags: list[str], part: str | None) -> bool:
    return part is None or any(part.lower() in one.lower() for one in (name, *tags))
