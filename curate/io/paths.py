"""Where input files are: patterns to files, with their names, splits and content hashes.

A pattern is a file, a folder, or a glob, on the local disk or at any fsspec URL; ``{000..999}`` and
``{a,b}`` stand for several, ``::`` joins several.
"""

import difflib
import glob
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fsspec import AbstractFileSystem

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io.filesystem import (
    A_RUN,
    Entry,
    StorageOptions,
    explained,
    filesystem,
    has_magic,
    is_local,
    is_remote,
    is_run_folder,
    local_path,
    lookup,
    matching,
    outside_runs,
    parent,
    url_of,
    version_of,
    walk,
)
from curate.io.found import is_counted, passed_over, used
from curate.io.names import printable
from curate.io.storage import hash_file

__all__ = [
    "NO_END", "FoundFile", "check_unchanged", "expand", "expand_braces", "fingerprint", "split_of", "split_pattern",
    "unnumbered",
]  # fmt: skip

MAX_BRACE_PATHS = 10_000_000
SPLITS = frozenset({"train", "test", "validation", "val"})

_BRACES = re.compile(r"\{([^{}]*)\}")
#: What is said of files whose names have no end.
NO_END = "(no extension)"
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_HOST = re.compile(r"(www\.[\w-]+\.|[\w.-]+\.(com|org|net|io|co|ai|edu|gov)/)", re.IGNORECASE)
_OF_SO_MANY = re.compile(r"-\d+-of-\d+$")
_NUMBERED = re.compile(r"^(?:.*-)?(\w+(?:\.\w+)*)-\d{5,}-of-\d{5,}(?:-\w+)?\.")


@dataclass(frozen=True)
class FoundFile:
    """One file that a pattern matched.

    url : where to open it (an absolute path for a local file). name : its path below the common folder of
    all matches, but no deeper than where a wildcard stands: files that come into other folders later change
    no name. version : size and time, or size and ETag: the fast sign of a change.
    """

    url: str
    name: str
    size: int
    version: str


class SourceFile(Protocol):
    """What of a file of a source is needed to know it again: a `FoundFile`, or a shard."""

    @property
    def url(self) -> str:
        """Where to open it."""

    @property
    def name(self) -> str:
        """Its name in the run."""

    @property
    def version(self) -> str:
        """Size and time, or size and ETag, when it was found."""


class OpenableFile(SourceFile, Protocol):
    """A file with the options of its file system."""

    @property
    def storage_options(self) -> Mapping[str, object]:
        """Keywords of the fsspec file system."""


def expand(
    patterns: str | Sequence[str],
    storage_options: StorageOptions = None,
    *,
    extensions: Sequence[str] = (".parquet",),
) -> list[FoundFile]:
    """Return the files that `patterns` match, each once, in bytewise order of their names.

    A folder stands for all files below it that end in one of `extensions`; a file or a glob for what
    it says. Hidden files (``.x``, in folders also ``_x``) are left out. Raises UsageError where a
    pattern matches nothing and SourceError where only a part of a brace range exists.
    """
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    found: dict[str, Entry] = {}
    roots: set[str] = set()
    for text in texts:
        for pattern in split_pattern(text):
            with explained(pattern, storage_options):
                found |= _matches(pattern, storage_options, tuple(extensions), roots)
    used(found)
    names = _names(list(found), roots)
    files = [FoundFile(url, names[url], entry.size, entry.version) for url, entry in found.items()]
    return sorted(files, key=lambda file: file.name.encode())


def expand_braces(pattern: str) -> list[str]:
    """Return the paths that the braces of `pattern` stand for, in order; those in names that exist are no braces.

    Raises UsageError where there are more than `MAX_BRACE_PATHS`.

    >>> expand_braces("{train,val}-{08..10}.parquet")[1:4]
    ['train-09.parquet', 'train-10.parquet', 'val-08.parquet']
    """
    literal = as_written(pattern)
    pieces: list[list[str]] = [[literal]]
    pattern, end = pattern[len(literal) :], 0
    for match in _BRACES.finditer(pattern):
        choices = _choices(match[1])
        if choices is not None:
            pieces += [[pattern[end : match.start()]], choices]
            end = match.end()
    pieces.append([pattern[end:]])
    count = math.prod(map(len, pieces))
    if count > MAX_BRACE_PATHS:
        raise UsageError(
            f"{literal}{pattern}: stands for {count:,} paths, at most {MAX_BRACE_PATHS:,} are allowed"
        )
    return ["".join(parts) for parts in itertools.product(*pieces)]


def fingerprint(file: SourceFile) -> str:
    """Return 32 hex digits that change with the content of `file`.

    A local file is hashed (blake2b-128); of a remote one name and version (size, ETag) are. Local
    files of equal content have equal fingerprints.
    """
    if is_remote(file.url):
        return digest(file.name, file.version)
    with explained(file.url, None):
        return hash_file(Path(file.url))


def check_unchanged(file: OpenableFile) -> None:
    """Raise SourceError unless a file has the version it had when it was found."""
    now = version_of(file.url, file.storage_options)
    if now != file.version:
        raise SourceError(
            f"{file.url}: the file changed since it was read (was {file.version}, is {now}); run again"
        )


def split_of(name: str, url: str | None = None) -> str:
    """Return the split a file belongs to, from its name or else from a folder it is in.

    name : path below the common folder of all files. url : also look at the folder the file lies in.

    >>> split_of("a/train-00000-of-00002.parquet"), split_of("val/0.parquet"), split_of("0.parquet")
    ('train', 'val', 'train')
    """
    *folders, file = name.split("/")
    numbered = _NUMBERED.match(file)
    if numbered is not None and numbered[1] not in ("part", "data", "shard", "file", "chunk"):
        return numbered[1]
    if url is not None and not folders:
        folders = url.split("/")[-2:-1]
    for part in [file.split(".")[0], *reversed(folders)]:
        if part.lower() in SPLITS:
            return part
    return "train"


def unnumbered(name: str) -> str:
    """Return a name without the number that TensorFlow puts after its end.

    >>> unnumbered("train.tfrecord-00000-of-00010")
    'train.tfrecord'
    """
    return _OF_SO_MANY.sub("", name)


def as_written(pattern: str) -> str:
    """Return how much of a local path exists under exactly this name, though it may look like a pattern.

    That is all of it, or the folders at its beginning; nothing of a plain path or a URL.
    """
    if is_remote(pattern) or not ("{" in pattern or "::" in pattern or has_magic(pattern)):
        return ""
    if _exists(pattern):
        return pattern
    ends = [place for place, char in enumerate(pattern) if char == "/"]
    return next((pattern[: end + 1] for end in reversed(ends) if _exists(pattern[: end + 1])), "")


def _exists(path: str) -> bool:
    try:
        return Path(local_path(path)).exists()
    except (OSError, ValueError):  # a pattern may be no name at all: too long, or with a null in it
        return False


def split_pattern(text: str) -> list[str]:
    """Return the patterns that ``::`` joins; in names that exist it joins nothing."""
    literal = as_written(text) if "::" in text else ""
    first, *more = text[len(literal) :].split("::")
    patterns = [part.strip() for part in (literal + first, *more)]
    if not all(patterns):
        raise UsageError(f"{text!r}: a path must not be empty")
    return patterns


def _choices(inside: str) -> list[str] | None:
    """Return what one pair of braces stands for, or None where the braces are ordinary characters."""
    match = _RANGE.fullmatch(inside)
    if match is None:
        return inside.split(",") if "," in inside else None
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    padded = any(len(text) > 1 and text.startswith("0") for text in match.group(1, 2))
    width = max(len(match[1]), len(match[2])) if padded else 0
    if abs(last - first) >= MAX_BRACE_PATHS or step < 1:
        raise UsageError(
            f"{{{inside}}}: a range has 1 to {MAX_BRACE_PATHS:,} numbers, and a step of 1 or more"
        )
    numbers = range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
    return [f"{number:0{width}d}" for number in numbers]


def _matches(
    pattern: str, storage_options: StorageOptions, extensions: tuple[str, ...], roots: set[str]
) -> dict[str, Entry]:
    """Return {url: entry} of the files one pattern (without ``::``) matches; add folders it says to `roots`."""
    fs, _ = filesystem(pattern, storage_options)
    to_path = local_path if is_local(fs) else fs._strip_protocol
    paths = {text: to_path(text) for text in expand_braces(pattern)}
    literal = to_path(as_written(pattern)) if as_written(pattern) else ""
    entries = lookup(fs, list(paths.values()))
    found: dict[str, Entry] = {}
    missing: list[str] = []
    for text, path in paths.items():
        entry = entries.get(path)
        if entry is None:
            files = _glob(fs, path, extensions, literal) if has_magic(path[len(literal) :]) else {}
            roots |= {url_of(fs, _above_glob(path, literal))} if files else set()
        elif entry.is_folder:
            files = _below(fs, path, extensions, text)
            roots.add(url_of(fs, path.rstrip("/")))
        else:
            files = {path: entry}
        if not files:
            missing.append(text)
        found |= files
    _check_missing(pattern, missing, len(paths))
    return {url_of(fs, path): entry for path, entry in found.items()}


def _check_missing(pattern: str, missing: Sequence[str], total: int) -> None:
    """Raise if nothing was found, or not all that the braces name (of globs in ``{a,b}`` one is enough)."""
    if len(missing) == total:
        what = "matches nothing" if total > 1 or has_magic(pattern) else "no such file or folder"
        raise UsageError(f"{pattern}: {what}{_near(pattern)}")
    ranged = any(_RANGE.fullmatch(inside) for inside in _BRACES.findall(pattern))
    strict = [text for text in missing if ranged or not has_magic(text)]
    if strict:
        shown = ", ".join(strict[:3]) + (", ..." if len(strict) > 3 else "")
        raise SourceError(
            f"{pattern}: {len(strict):,} of {total:,} do not exist: {shown}; bring them, or name what is there "
            f"with a wildcard: {_BRACES.sub('*', pattern)}"
        )


def _above_glob(path: str, literal: str) -> str:
    """Return the folder that the first wildcard of a path stands in; literal : how it begins, without any."""
    return parent(literal + re.split(r"[*?\[]", path[len(literal) :])[0])


def _near(pattern: str) -> str:
    """Say which name a local path may have meant, or how far it is right; nothing where there is no telling."""
    path = Path(local_path(pattern))
    if is_remote(pattern) or path.exists() or (has_magic(pattern) and not _HOST.match(pattern)):
        return ""
    last = next((one for one in path.parents if one.is_dir()), None)
    if last is None:
        return ""
    wrong = path.relative_to(last).parts[0]
    try:
        close = difflib.get_close_matches(wrong, [one.name for one in last.iterdir()], n=1, cutoff=0.75)
    except OSError:
        return ""
    if close:
        return f"; did you mean {last / close[0]}?"
    if _HOST.match(pattern):
        return f"; an address begins with its scheme: https://{pattern}"
    return "" if last == path.parent else f" ({last} has no {wrong})"


def _glob(
    fs: AbstractFileSystem, pattern: str, extensions: tuple[str, ...], literal: str
) -> dict[str, Entry]:
    """Return the files a glob matches; folders count (with all below) only if nothing else matches."""
    hidden = [mark for mark in ("/.", "/_") if mark not in pattern and (mark == "/." or "**" in pattern)]
    inside = len(_above_glob(pattern, literal))
    escaped = glob.escape(literal) + pattern[len(literal) :]
    entries = {
        path: entry
        for path, entry in matching(fs, escaped).items()
        if not any(mark in path[inside:] for mark in hidden)
    }
    files = {path: entry for path, entry in entries.items() if not entry.is_folder}
    files = outside_runs(fs, files, pattern[:inside])
    if not files:
        for path in (path for path, entry in entries.items() if entry.is_folder):
            if is_run_folder(fs, path):
                passed_over(f"{path}/", A_RUN)
            else:
                files |= _with_extension(walk(fs, path), extensions)
    return files


def _below(fs: AbstractFileSystem, folder: str, extensions: tuple[str, ...], text: str) -> dict[str, Entry]:
    """Return the files below a folder that have one of the extensions; UsageError if there is none."""
    files = walk(fs, folder)
    found = _with_extension(files, extensions)
    for path in sorted(files.keys() - found.keys()) if is_counted() else ():
        passed_over(path, f"not {' or '.join(extensions[:2])}")
    if not found:
        endings = Counter(unnumbered(Path(path).suffix.lower()) or NO_END for path in files)
        holds = ", ".join(f"{n:,} {ending}" for ending, n in sorted(endings.items()))
        wanted = " or ".join(extensions) if len(extensions) <= 4 else "data"
        raise UsageError(f"{text}: no {wanted} file below this folder; it holds {holds or 'no files'}")
    return found


def _with_extension(files: dict[str, Entry], extensions: tuple[str, ...]) -> dict[str, Entry]:
    return {path: entry for path, entry in files.items() if path.lower().endswith(extensions)}


def _names(urls: Iterable[str], roots: Iterable[str] = ()) -> dict[str, str]:
    """Return {url: path below the common folder, of `roots` too}; unique, with "/" between the parts."""
    parts = {url: _parts(url) for url in urls}
    folders = [*(path[:-1] for path in parts.values()), *map(_parts, roots)]
    first, last = min(folders, default=[]), max(folders, default=[])
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = sum(1 for _ in alike)
    names = {url: printable("/".join(filter(None, path[common:]))) for url, path in parts.items()}
    for url, name in names.items():
        if not name:
            raise SourceError(f"{url}: names no file")
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    if twice:
        raise UsageError(f"{twice[0]}: two files have this name below their common folder")
    return names


def _parts(url: str) -> list[str]:
    protocol, _, path = url.rpartition("://")
    return [protocol, *path.strip("/").split("/")]
