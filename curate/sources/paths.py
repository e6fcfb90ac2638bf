"""Where input files are: patterns to files, their names, versions and content hashes.

A pattern is a file, a folder, or a glob, on the local disk or at any fsspec URL; ``{000..999}`` and
``{a,b}`` stand for several, ``::`` joins several. Also here: following a path that a *row* gives, which
is untrusted and never leads outside the folder of its shard.
"""

import contextlib
import datetime
import glob
import http.client
import io
import itertools
import os
import re
import stat
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import fsspec
from fsspec.core import url_to_fs

from curate.errors import RecipeError, SourceError, UsageError
from curate.identity import digest
from curate.storage import hash_file

__all__ = [
    "FoundFile",
    "expand",
    "expand_braces",
    "fingerprint",
    "follow",
    "open_binary",
    "refusal",
    "resolve_options",
    "split_of",
    "version_of",
]

MAX_BRACE_PATHS = 10_000_000
MAX_IMAGE_BYTES = 256 << 20
URL_TIMEOUT_S = 20
SPLITS = frozenset({"train", "test", "validation", "val"})

_REMOTE = re.compile(r"^(?!file:|local:)[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEME = re.compile(r"^(data(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://))", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_NUMBERED = re.compile(r"^(?:.*-)?(\w+(?:\.\w+)*)-\d{5,}-of-\d{5,}(?:-\w+)?\.")


@dataclass(frozen=True)
class FoundFile:
    """One file that a pattern matched.

    url : where to open it (an absolute path for a local file). name : its path below the common
    folder of all matches. version : size and time, or size and ETag: the fast sign of a change.
    """

    url: str
    name: str
    size: int
    version: str


class _Named(Protocol):
    """What `fingerprint` needs to know of a file; FoundFile and Shard have it."""

    @property
    def url(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


@dataclass(frozen=True)
class _Entry:
    """A file (size, version) or a folder, as its file system lists it."""

    is_folder: bool
    size: int
    version: str


def expand(
    patterns: str | Sequence[str],
    storage_options: Mapping[str, object] | None = None,
    *,
    extensions: Sequence[str] = (".parquet",),
) -> list[FoundFile]:
    """Return the files that `patterns` match, each once, in bytewise order of their names.

    A folder stands for all files below it that end in one of `extensions`; a file or a glob for what
    it says. Hidden files (``.x``, in folders also ``_x``) are left out. Raises UsageError where a
    pattern matches nothing and SourceError where only a part of a brace range exists.
    """
    texts = [patterns] if isinstance(patterns, str) else list(patterns)
    found: dict[str, _Entry] = {}
    for text in texts:
        for pattern in _split(text):
            with _explained(pattern, storage_options):
                found |= _matches(pattern, storage_options, tuple(extensions))
    names = _names(list(found))
    files = [FoundFile(url, names[url], entry.size, entry.version) for url, entry in found.items()]
    return sorted(files, key=lambda file: file.name.encode())


def expand_braces(pattern: str) -> list[str]:
    """Return the paths that the braces of `pattern` stand for, in order.

    >>> expand_braces("{train,val}-{08..10}.parquet")[1:4]
    ['train-09.parquet', 'train-10.parquet', 'val-08.parquet']
    """
    pieces: list[list[str]] = []
    end = 0
    for match in _BRACES.finditer(pattern):
        choices = _choices(match[1])
        if choices is not None:
            pieces += [[pattern[end : match.start()]], choices]
            end = match.end()
    pieces.append([pattern[end:]])
    count = 1
    for choices in pieces:
        count *= len(choices)
    if count > MAX_BRACE_PATHS:
        raise UsageError(f"{pattern}: stands for {count:,} paths, at most {MAX_BRACE_PATHS:,} are allowed")
    return ["".join(parts) for parts in itertools.product(*pieces)]


def resolve_options(storage_options: Mapping[str, object] | None) -> dict[str, Any]:
    """Return `storage_options` with every ``${NAME}`` replaced by that environment variable.

    Raises RecipeError naming a variable that is not set. The result holds secrets: never write it.
    """

    def resolved(value: object) -> object:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: _variable(match[1]), value)
        if isinstance(value, Mapping):
            return {key: resolved(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [resolved(item) for item in value]
        return value

    return {key: resolved(value) for key, value in (storage_options or {}).items()}


def open_binary(url: str, storage_options: Mapping[str, object] | None = None) -> BinaryIO:
    """Open a file for reading, wherever it is; raises SourceError naming it if that fails."""
    with _explained(url, storage_options):
        if not _is_remote(url):
            return Path(_local(url)).open("rb")
        fs, path = _filesystem(url, storage_options)
        return cast(BinaryIO, fs.open(path, "rb"))


def version_of(url: str, storage_options: Mapping[str, object] | None = None) -> str:
    """Return the version of a file as it is now; the same as `expand` gave it unless it changed."""
    with _explained(url, storage_options):
        fs, path = _filesystem(url, storage_options)
        entry = _lookup(fs, [path]).get(path)
    if entry is None or entry.is_folder:
        raise SourceError(f"{url}: the file is no longer there")
    return entry.version


def fingerprint(file: _Named) -> str:
    """Return 32 hex digits that change with the content of `file`.

    A local file is hashed (blake2b-128); of a remote one name and version (size, ETag) are. Local
    files of equal content have equal fingerprints.
    """
    if _is_remote(file.url):
        return digest(file.name, file.version)
    with _explained(file.url, None):
        return hash_file(Path(file.url))


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


def refusal(reference: str, shard_url: str, *, allow_url: bool = False) -> str | None:
    """Say why a path that a row gives must not be opened, judging by its text; None if it may be."""
    if "\0" in reference or "::" in reference:
        return "the path holds characters that no image path has"
    scheme = _SCHEME.match(reference)
    if scheme is not None:
        allowed = {"http", "https"}
        if _is_remote(shard_url):
            allowed.add(shard_url.split(":")[0].lower())
        if not allow_url:
            return "the path is a URL, and source.allow does not list url"
        return None if scheme[1].lower() in allowed else f"{scheme[1]}: addresses are never opened"
    parts = re.split(r"[/\\]", reference)
    if parts[0] == "" or parts[0].endswith(":"):
        return "the path is absolute"
    return "the path holds '..'" if ".." in parts else None


def follow(
    reference: str,
    shard_url: str,
    storage_options: Mapping[str, object] | None = None,
    *,
    allow_url: bool = False,
) -> tuple[bytes | None, str, str | None]:
    """Return (bytes, outcome, reason) of the image at a path or URL that a row gives.

    A path is taken below the folder of the shard; one that leads elsewhere, by text or by a symbolic
    link, is `refused_path`. What cannot be read is `missing_image`.
    """
    refused = refusal(reference, shard_url, allow_url=allow_url)
    if refused is not None:
        return None, "refused_path", refused
    try:
        with _open_reference(reference, shard_url, storage_options) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except _RefusedError as error:
        return None, "refused_path", str(error)
    except FileNotFoundError:
        return None, "missing_image", "no such file"
    except (OSError, ValueError, SourceError, http.client.HTTPException) as error:
        return None, "missing_image", _masked(f"cannot be read: {_cause(error)}", storage_options)
    if len(data) > MAX_IMAGE_BYTES:
        return None, "too_large", f"the file has more than {MAX_IMAGE_BYTES:,} bytes"
    if not data:
        return None, "missing_image", "the file is empty"
    return data, "ok", None


class _RefusedError(Exception):
    """A path leads outside the folder of its shard."""


def _open_reference(
    reference: str, shard_url: str, storage_options: Mapping[str, object] | None
) -> contextlib.AbstractContextManager[BinaryIO]:
    if re.match("https?://", reference, re.IGNORECASE):
        return _open_url(reference)
    if _SCHEME.match(reference):
        return _open_remote(reference, storage_options)
    if _is_remote(shard_url):
        return _open_remote(f"{shard_url.rpartition('/')[0]}/{reference}", storage_options)
    root = Path(shard_url).parent.resolve()
    path = (root / reference).resolve()
    if not path.is_relative_to(root):
        raise _RefusedError("the path leads outside the folder of its shard")
    if path.exists() and not path.is_file():
        raise _RefusedError("the path is not a file")
    return path.open("rb")


def _open_remote(url: str, storage_options: Mapping[str, object] | None) -> BinaryIO:
    fs, path = _filesystem(url, storage_options)
    return cast(BinaryIO, fs.open(path, "rb"))


def _open_url(url: str) -> BinaryIO:
    """Open an http(s) address; redirects lead to http(s) only, never to files."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(url, headers={"User-Agent": "curate"})
    try:
        answer = opener.open(request, timeout=URL_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"HTTP status {error.code}") from None
    if answer is None:
        raise OSError("a redirect to another kind of address")
    with answer:
        return io.BytesIO(answer.read(MAX_IMAGE_BYTES + 1))


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise RecipeError(f"storage_options: the environment variable {name} is not set")
    return value


def _masked(text: str, storage_options: Mapping[str, object] | None) -> str:
    """Return `text` in one line, without the values that came from the environment."""
    for name in _VARIABLE.findall(str(storage_options or "")):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return " ".join(text.split())


def _cause(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return reason or type(error).__name__


@contextlib.contextmanager
def _explained(what: str, storage_options: Mapping[str, object] | None) -> Iterator[None]:
    """Turn any error of a file system into one line that names `what` and holds no secret."""
    try:
        yield
    except (UsageError, SourceError):
        raise
    except FileNotFoundError:
        raise SourceError(f"{what}: no such file or folder") from None
    except ImportError as error:
        raise UsageError(f"{what}: {_masked(str(error), storage_options)}") from None
    except Exception as error:  # noqa: BLE001  (each file system has its own errors; none may show a secret)
        text = _masked(f"{what}: cannot be read: {_cause(error)} ({type(error).__name__})", storage_options)
        raise SourceError(text) from None


def _is_remote(url: str) -> bool:
    return _REMOTE.match(url) is not None


def _local(url: str) -> str:
    path = re.sub(r"^(?:file|local)://", "", url)
    return os.path.normpath(Path(path).expanduser().absolute())


def _filesystem(url: str, storage_options: Mapping[str, object] | None) -> tuple[Any, str]:
    """Return (file system, path in it) for a URL; listings it has kept from before are dropped."""
    if not _is_remote(url):
        return fsspec.filesystem("file"), _local(url)
    try:
        fs, path = url_to_fs(url, **resolve_options(storage_options))
    except ValueError as error:
        raise UsageError(f"{url}: {_masked(str(error), storage_options)}") from None
    fs.invalidate_cache()
    return fs, path


def _is_local_fs(fs: Any) -> bool:  # noqa: ANN401  (fsspec has no types)
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _url(fs: Any, path: str) -> str:  # noqa: ANN401
    return path if _is_local_fs(fs) else str(fs.unstrip_protocol(path))


def _split(text: str) -> list[str]:
    patterns = [part.strip() for part in text.split("::")]
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
    pattern: str, storage_options: Mapping[str, object] | None, extensions: tuple[str, ...]
) -> dict[str, _Entry]:
    """Return {url: entry} of the files one pattern (without ``::``) matches."""
    fs, _ = _filesystem(pattern, storage_options)
    local = _is_local_fs(fs)
    paths = {text: _local(text) if local else fs._strip_protocol(text) for text in expand_braces(pattern)}
    entries = _lookup(fs, list(paths.values()))
    found: dict[str, _Entry] = {}
    missing: list[str] = []
    for text, path in paths.items():
        entry = entries.get(path)
        if entry is None:
            files = _glob(fs, path, extensions) if _has_magic(path) else {}
        elif entry.is_folder:
            files = _below(fs, path, extensions, text)
        else:
            files = {path: entry}
        if not files:
            missing.append(text)
        found |= files
    _check_missing(pattern, missing, len(paths))
    return {_url(fs, path): entry for path, entry in found.items()}


def _check_missing(pattern: str, missing: Sequence[str], total: int) -> None:
    if len(missing) == total:
        what = "matches nothing" if total > 1 or _has_magic(pattern) else "no such file or folder"
        raise UsageError(f"{pattern}: {what}")
    ranged = any(_RANGE.fullmatch(inside) for inside in _BRACES.findall(pattern))
    strict = [text for text in missing if ranged or not _has_magic(text)]
    if strict:
        shown = ", ".join(strict[:3]) + (", ..." if len(strict) > 3 else "")
        raise SourceError(f"{pattern}: {len(strict):,} of {total:,} do not exist: {shown}")


def _has_magic(path: str) -> bool:
    return any(character in path for character in "*?[")


def _lookup(fs: Any, paths: Sequence[str]) -> dict[str, _Entry]:  # noqa: ANN401
    """Return the entries of those `paths` that exist; many of one remote folder cost one listing."""
    if _is_local_fs(fs):
        entries = ((path, _stat(path)) for path in paths)
        return {path: entry for path, entry in entries if entry is not None}
    wanted = set(paths)
    crowded = {folder for folder, n in Counter(map(_parent, wanted)).items() if n > 4}
    infos: dict[str, Any] = {}
    for folder in crowded:
        with contextlib.suppress(FileNotFoundError):
            infos |= {info["name"]: info for info in fs.ls(folder, detail=True)}
    for path in wanted:
        if _parent(path) not in crowded and not _has_magic(path):
            with contextlib.suppress(FileNotFoundError):
                infos[path] = fs.info(path)
    return {path: _entry(infos[path]) for path in wanted if path in infos}


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _stat(path: str) -> _Entry | None:
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _Entry(stat.S_ISDIR(found.st_mode), found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def _entry(info: Mapping[str, Any]) -> _Entry:
    """Return the entry for what a remote file system says of one path."""
    size = int(info.get("size") or 0)
    for key in (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "blob_id",
        "LastModified",
        "last_modified",
        "mtime",
    ):
        if info.get(key):
            sign = info[key]
            break
    else:
        sign = info.get("updated") or info.get("created") or ""
    if isinstance(sign, datetime.datetime):
        sign = sign.timestamp()
    text = f"{sign:.6f}" if isinstance(sign, float) else str(sign).strip('"')
    return _Entry(info.get("type") == "directory", size, f"{size}-{text}")


def _glob(fs: Any, pattern: str, extensions: tuple[str, ...]) -> dict[str, _Entry]:  # noqa: ANN401
    """Return the files a glob matches; folders count (with all below) only if nothing else matches."""
    if _is_local_fs(fs):
        entries = _lookup(fs, glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob follows no links)
    else:
        entries = {path: _entry(info) for path, info in fs.glob(pattern, detail=True).items()}
    hidden = [mark for mark in ("/.", "/_") if mark not in pattern and (mark == "/." or "**" in pattern)]
    inside = len(_parent(re.split(r"[*?\[]", pattern)[0]))
    entries = {path: e for path, e in entries.items() if not any(mark in path[inside:] for mark in hidden)}
    files = {path: entry for path, entry in entries.items() if not entry.is_folder}
    if not files:
        for path in entries:
            files |= _listed(fs, path, extensions)
    return files


def _listed(fs: Any, folder: str, extensions: tuple[str, ...]) -> dict[str, _Entry]:  # noqa: ANN401
    return {path: entry for path, entry in _walk(fs, folder).items() if path.lower().endswith(extensions)}


def _below(fs: Any, folder: str, extensions: tuple[str, ...], text: str) -> dict[str, _Entry]:  # noqa: ANN401
    """Return the files below a folder that have one of the extensions; UsageError if there is none."""
    found = _listed(fs, folder, extensions)
    if not found:
        endings = Counter(Path(path).suffix.lower() or "(no extension)" for path in _walk(fs, folder))
        holds = ", ".join(f"{n:,} {ending}" for ending, n in sorted(endings.items()))
        wanted = " or ".join(extensions)
        raise UsageError(f"{text}: no {wanted} file below this folder; it holds {holds or 'no files'}")
    return found


def _walk(fs: Any, folder: str) -> dict[str, _Entry]:  # noqa: ANN401
    """Return all files below a folder, hidden ones (. and _) left out."""
    if _is_local_fs(fs):
        return _lookup(fs, list(_walk_local(folder)))
    found = fs.find(folder, detail=True)
    inside = len(folder.rstrip("/"))
    hidden = re.compile(r"/[._]")
    return {path: _entry(info) for path, info in found.items() if not hidden.search(path[inside:])}


def _walk_local(folder: str) -> Iterator[str]:
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = [] if real in seen else [name for name in folders if name[0] not in "._"]
        if real not in seen:
            yield from (os.path.join(here, name) for name in files if name[0] not in "._")  # noqa: PTH118
        seen.add(real)


def _names(urls: Iterable[str]) -> dict[str, str]:
    """Return {url: path below the common folder}; unique, with "/" between the parts."""
    parts = {url: _parts(url) for url in urls}
    folders = [path[:-1] for path in parts.values()]
    first, last = min(folders, default=[]), max(folders, default=[])
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    common = sum(1 for _ in alike)
    names = {url: "/".join(filter(None, path[common:])) for url, path in parts.items()}
    for url, name in names.items():
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{name!a}: the file name is not valid UTF-8") from None
        if not name:
            raise SourceError(f"{url}: names no file")
    twice = [name for name, n in Counter(names.values()).items() if n > 1]
    if twice:
        raise UsageError(f"{twice[0]}: two files have this name below their common folder")
    return names


def _parts(url: str) -> list[str]:
    protocol, _, path = url.rpartition("://")
    return [protocol, *path.strip("/").split("/")]
