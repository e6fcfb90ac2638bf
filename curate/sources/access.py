"""Which files the paths in rows may lead to: what `source.root`, `source.allow` and `source.template` say.

Rows are foreign data. By default a path leads to a file below the folder of its shard, in itself and where links on the
way lead; everything else is refused, with the setting that would allow it.
"""

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from curate.io.filesystem import StorageOptions, is_remote, local_path, open_remote, parent

__all__ = ["PLACE", "PathAccess", "RefusedPathError", "found_path", "open_path", "path_refusal"]

_FILE = re.compile(r"^(?:file|local)://", re.IGNORECASE)
#: Folders beside a shard in which images are looked for too.
IMAGE_FOLDERS = ("images", "Images")
#: Where the value stands in a template.
PLACE = re.compile(r"\{(?::0?(\d{1,2})d?)?\}")


class RefusedPathError(Exception):
    """A path leads where it may not."""


@dataclass(frozen=True)
class PathAccess:
    """Where paths in rows may lead.

    roots : folders (or URLs of such) that relative paths begin at, in this order and before the folder of the shard, and
    that absolute ones may lead into. outside : paths may lead anywhere. links : symbolic links may. template :
    the path that a value of the image column stands for, such as ``{}.jpg`` or ``train_{:012}.jpg``.
    """

    roots: tuple[str, ...] = ()
    outside: bool = False
    links: bool = False
    template: str | None = None

    def named(self, value: str) -> str:
        """Return the path that a value of the image column stands for.

        >>> PathAccess(template="train/{:06}.jpg").named("42")
        'train/000042.jpg'
        """
        if self.template is None:
            return value
        return PLACE.sub(lambda match: value.zfill(int(match[1] or 0)), self.template)

    def values_of(self, path: str) -> list[str]:
        """Return the values of the image column that may stand for a path or its file name; none without a template.

        >>> PathAccess(template="train/{:06}.jpg").values_of("000042.jpg")
        ['000042', '42']
        """
        found: list[str] = []
        for template in dict.fromkeys((self.template or "", (self.template or "").rpartition("/")[2])):
            before, after = map(re.escape, PLACE.sub("\0", template).partition("\0")[::2])
            value = re.fullmatch(f"{before}(.+){after}", path) if PLACE.search(template) else None
            found += [value[1], value[1].lstrip("0") or "0"] if value else []
        return list(dict.fromkeys(found))

    def bases(self, shard_url: str) -> tuple[str, ...]:
        """Return the folders that relative paths begin at, in order."""
        folder, _, name = shard_url.rpartition("/")
        folder = folder or "/"
        places = [folder, *(f"{folder}/{one}" for one in IMAGE_FOLDERS)]
        if (
            folder.rpartition("/")[2] == "annotations"
        ):  # COCO: annotations/captions_train2017.json, train2017/1.jpg
            above, split = parent(folder), name.split(".")[0].rpartition("_")[2]
            places += [f"{above}/{one}" for one in (split, f"images/{split}", "images")]
        return (*self.roots, *places)

    def of_folder(self, folder: str) -> "PathAccess":
        """Return the access for files that a folder lists: they are taken from nowhere else, wherever links lead."""
        return replace(self, roots=(folder, *self.roots), template=None)


def path_refusal(path: str, shard_url: str, access: PathAccess) -> str | None:
    """Say why a path that is no address must not be opened, judging by its text; None if it may be."""
    plain = _FILE.sub("", path)
    parts = re.split(r"[/\\]", plain)
    absolute = plain != path or parts[0] == "" or parts[0].endswith(":")
    if not absolute and ".." not in parts:
        return None
    if access.outside or any(
        _leads_into(plain, base, access) for base in access.bases(shard_url) if access.roots
    ):
        return None
    what = "is absolute" if absolute else "holds '..'"
    if access.roots:
        return f"the path {what} and leads out of source.root; name its folder there too, or list outside in source.allow"
    return f"the path {what}; name the folder of the images in source.root, or list outside in source.allow"


def _leads_into(path: str, base: str, access: PathAccess) -> bool:
    """Return True if a path, taken from `base`, is below one of the roots by its text."""
    full = _joined(base, path)
    return any(full == root or full.startswith(f"{root.rstrip('/')}/") for root in map(_plain, access.roots))


def _plain(url: str) -> str:
    return url.rstrip("/") if is_remote(url) else local_path(url)


def _joined(base: str, path: str) -> str:
    """Return where a path leads from a folder, with what ``..`` takes back."""
    if not is_remote(base):
        return os.path.normpath(os.path.join(local_path(base), path))  # noqa: PTH118  (Path keeps ..)
    if ".." not in path.split("/") and not path.startswith("/"):
        return f"{base.rstrip('/')}/{path}"
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{os.path.normpath(os.path.join(rest, path)).lstrip('/')}"  # noqa: PTH118


def open_path(path: str, shard_url: str, storage_options: StorageOptions, access: PathAccess) -> BinaryIO:
    """Open the file at a path that `path_refusal` lets pass: below the first folder that has it.

    Raises RefusedPathError where a link leads outside, or what is there is no file.
    """
    plain = _FILE.sub("", path)
    bases = access.bases(shard_url)
    for base in bases[:-1]:
        try:
            return _open_below(plain, base, storage_options, access)
        except FileNotFoundError:
            continue
    return _open_below(plain, bases[-1], storage_options, access)


def _open_below(path: str, base: str, storage_options: StorageOptions, access: PathAccess) -> BinaryIO:
    if is_remote(base) and not path.startswith("/"):
        return open_remote(_joined(base, path), storage_options)
    return _checked(path, base, access).resolve().open("rb")


def found_path(path: str, shard_url: str, access: PathAccess) -> Path:
    """Return the file on this machine that `open_path` would open, links left as they are.

    Raises FileNotFoundError where there is none, RefusedPathError where a link leads outside or it is no file.
    """
    plain = _FILE.sub("", path)
    for base in access.bases(shard_url):
        if plain.startswith("/") or not is_remote(base):
            found = _checked(plain, base, access)
            if found.exists():
                return found
    raise FileNotFoundError(path)


def _checked(path: str, base: str, access: PathAccess) -> Path:
    """Return where a path leads from a folder on this machine; RefusedPathError where it may not."""
    inside = [Path(local_path(root)).resolve() for root in (base, *access.roots) if not is_remote(root)]
    whole = Path(path) if path.startswith("/") else Path(local_path(base)).resolve() / path
    real = whole.resolve()
    if not (access.outside or access.links or any(real.is_relative_to(root) for root in inside)):
        raise RefusedPathError(
            "a symbolic link on the path leads outside the folder; name where it leads in source.root, or list links in "
            "source.allow"
        )
    if real.exists() and not real.is_file():
        raise RefusedPathError("the path is not a file")
    return whole
