"""Files beside images that say what is on them, and that a folder does not read: how to have them read is said.

Such are COCO's `annotations/captions_val2017.json`, a `captions.json` that is a list, and Flickr8k's `captions.txt`.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from shlex import quote

from curate.errors import SourceError
from curate.io import filesystem
from curate.io.filesystem import Entry, StorageOptions
from curate.sources.access import PathAccess
from curate.sources.unknown import COCO, format_by_content

__all__ = ["say_tables"]

ENDS = (".json", ".txt")
#: So many are looked into, and so many are told of.
MOST_LOOKED_AT = 20
MOST_TOLD = 3
_HEAD_BYTES = 1 << 20
_FILE_NAME = re.compile(rb'"(?:file_name|image|image_path|filename|path)"\s*:\s*"([^"\\]+)"')


def say_tables(
    root: str, tree: Mapping[str, Mapping[str, Entry]], sides: Iterable[str], options: StorageOptions
) -> list[str]:
    """Return a sentence for each file below `root` that describes images and is not read, with what to type.

    tree : {folder: {name: entry}}. sides : paths of files that belong to one image each, and are none.
    """
    mine = set(sides)
    names = [f"{folder}{name}" for folder in sorted(tree) for name in sorted(tree[folder])]
    found = [path for path in names if path.lower().endswith(ENDS) and path not in mine]
    said = []
    for path in found[:MOST_LOOKED_AT]:
        what = _what(f"{root}/{path}", options)
        if what is not None:
            said.append(f"{path} is {what}, which a folder does not read; {_way(root, path, tree, options)}")
    more = len(said) - MOST_TOLD
    return said[:MOST_TOLD] + ([f"and {more:,} more such files"] if more > 0 else [])


def _what(url: str, options: StorageOptions) -> str | None:
    """Return what a file is, None for one that describes no images."""
    form = format_by_content(url, options)
    if form == "csv":  # by the names of its columns
        return "a table (CSV)"
    if form not in ("json", "jsonl"):
        return None
    head = _head(url, options)
    if form == "json" and COCO.match(head.removeprefix(b"\xef\xbb\xbf").lstrip()):
        return "in the form of COCO"
    if not _FILE_NAME.search(head):
        return None
    return "a list of objects that name images" if form == "json" else "a table (JSON lines)"


def _head(url: str, options: StorageOptions) -> bytes:
    try:
        with filesystem.open_binary(url, options) as file:
            return file.read(_HEAD_BYTES)
    except SourceError:
        return b""


def _way(root: str, path: str, tree: Mapping[str, Mapping[str, Entry]], options: StorageOptions) -> str:
    """Say what to type to have a file read, with the folder of its images where they are not looked for there."""
    typed = f"curate filter {quote(f'{root}/{path}')}"
    name = _FILE_NAME.search(_head(f"{root}/{path}", options))
    if name is not None:
        image = PurePosixPath(name[1].decode("utf-8", "replace"))
        inside = PurePosixPath(*(part for part in image.parts[:-1] if part not in (".", "/")))
        bases = {base.rstrip("/") for base in PathAccess().bases(f"{root}/{path}")}
        homes = [folder for folder in sorted(tree) if image.name in tree[folder] and _ends_in(folder, inside)]
        starts = [_start(f"{root}/{home}".rstrip("/"), inside) for home in homes]
        if starts and not bases & set(starts):
            typed += f" --set source.root={quote(starts[0])}"
    return f"to read it, name it in place of the folder: {typed}"


def _ends_in(folder: str, inside: PurePosixPath) -> bool:
    return not inside.parts or f"/{folder.rstrip('/')}".endswith(f"/{inside}")


def _start(home: str, inside: PurePosixPath) -> str:
    """Return the folder that a path begins at if its file lies in `home`."""
    return home.removesuffix(f"/{inside}") if inside.parts else home
