"""Files on the local disk or at any fsspec URL: opening, listing, and the versions that tell of a change.

Whatever a file system raises becomes one line that names the file and holds no secret. What a remote one could
not do just now is tried again (`retries`).
"""

import contextlib
import datetime
import errno
import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from curate.errors import RecipeError, ResourceError, SourceError, UsageError
from curate.io.found import is_counted, passed_over
from curate.io.retries import RetryingFile, again, unreached
from curate.io.secrets import hidden_values

__all__ = [
    "A_RUN",
    "LOST",
    "Entry",
    "StorageOptions",
    "cause",
    "changed_at",
    "entry_of",
    "explained",
    "filesystem",
    "has_magic",
    "is_local",
    "is_remote",
    "is_run_folder",
    "listing",
    "local_path",
    "lookup",
    "masked",
    "matching",
    "open_binary",
    "open_remote",
    "outside_runs",
    "parent",
    "require_enough",
    "resolve_options",
    "url_of",
    "version_of",
    "walk",
]

StorageOptions = Mapping[str, object] | None

#: What remote file systems call the sign of a change, the surest first.
SIGNS = (
    "ETag", "etag", "md5Hash", "content_md5", "blob_id", "LastModified", "last_modified", "mtime",
    "updated", "created",
)  # fmt: skip

#: What lies beside `recipe.yaml` in a folder that curate wrote, the second one from the beginning on.
SIGNS_OF_A_RUN = ("manifest.json", ".work/recipe.json")
A_RUN = "a run of curate"
#: What a file system keeps in its top folder, and nobody but root may list.
LOST = "lost+found"
#: What lies in the folder `store` of dated runs, which their tables share (`runs.dated`, on a local disk only).
SIGNS_OF_A_STORE = ("0_samples", "keys")
_IN_A_RUN = re.compile(r"/(?:[0-9]_[a-z]+/|logs/|keys/|\.work/|recipe\.yaml$|manifest\.json$)")

_REMOTE = re.compile(r"^(?!file:|local:)[A-Za-z][A-Za-z0-9+.-]*://")
#: A hidden file or folder in a path, with all of its name.
_HIDDEN = re.compile(r"/[._][^/]*/?")
_SCARCE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
#: What to do about errors of clients, by the names of their classes: no client is imported for them.
_WAYS = {
    "NoCredentialsError": (
        "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or storage_options={anon: true} for a public bucket"
    ),
}
#: Shorter values are no secrets, and stand in many words.
_SECRET_CHARACTERS = 4
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Entry:
    """A file (size, version) or a folder, as its file system lists it."""

    is_folder: bool
    size: int
    version: str


def resolve_options(storage_options: StorageOptions) -> dict[str, Any]:
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


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise RecipeError(f"storage_options: the environment variable {name} is not set")
    return value


def masked(text: str, storage_options: StorageOptions) -> str:
    """Return `text` in one line, without secrets: those from the environment, and those that options hold."""
    for hidden in hidden_values(storage_options or {}):
        if len(hidden) >= _SECRET_CHARACTERS:
            text = text.replace(hidden, "***")
    for name in _VARIABLE.findall(str(storage_options or "")):
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return " ".join(text.split())


def cause(error: BaseException) -> str:
    """Return what an error says, or its type where it says nothing; and how often it was tried."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "; ".join((reason, *getattr(error, "__notes__", ())))


def scarce(error: BaseException) -> bool:
    """Return True if an error is the machine's want of memory, threads or open files, and no fault of what is read.

    >>> scarce(OSError(24, "Too many open files")), scarce(MemoryError()), scarce(OSError(5, "Input/output error"))
    (True, True, False)
    """
    if isinstance(error, MemoryError) or getattr(error, "errno", None) in _SCARCE:
        return True
    text = str(error)
    said = re.search(r"\[errno (\d+)\]", text, re.IGNORECASE)  # as Arrow says it
    return "can't start new thread" in text or (said is not None and int(said[1]) in _SCARCE)


def require_enough(error: BaseException, what: str) -> None:
    """Raise ResourceError if an error is the machine's: what was read may be sound."""
    if scarce(error):
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or "out of memory"
        raise ResourceError(
            f"{what}: not read, for want of resources: {said}; set fewer workers or less memory, or raise the limit (ulimit)"
        ) from None


@contextlib.contextmanager
def explained(what: str, storage_options: StorageOptions) -> Iterator[None]:
    """Turn any error of a file system into one line that names `what` and holds no secret: SourceError, or UsageError."""
    try:
        yield
    except (UsageError, SourceError, ResourceError):
        raise
    except FileNotFoundError:
        raise SourceError(f"{what}: no such file or folder") from None
    except ImportError as error:
        raise UsageError(f"{what}: {masked(str(error), storage_options)}") from None
    except Exception as error:  # noqa: BLE001  (each file system has its own errors; none may show a secret)
        require_enough(error, what)
        text = masked(f"{what}: cannot be read: {cause(error)} ({type(error).__name__})", storage_options)
        raise SourceError(f"{text}{_WAYS.get(type(error).__name__, '')}") from None


def is_remote(url: str) -> bool:
    """Return True if `url` is an address of anything but the local disk."""
    return _REMOTE.match(url) is not None


def local_path(url: str) -> str:
    """Return the absolute path of a local file, ``..`` and links left as they are written."""
    path = re.sub(r"^(?:file|local)://", "", url)
    return os.path.normpath(Path(path).expanduser().absolute())


def filesystem(url: str, storage_options: StorageOptions) -> tuple[AbstractFileSystem, str]:
    """Return (file system, path in it) for a URL; listings it has kept from before are dropped.

    Raises UsageError for options that are wrong, and for a package that is not installed.
    """
    if not is_remote(url):
        return fsspec.filesystem("file"), local_path(url)
    try:
        fs, path = url_to_fs(url, **resolve_options(storage_options))
    except ValueError as error:
        raise UsageError(f"{url}: {masked(str(error), storage_options)}") from None
    except ImportError as error:
        said = masked(str(error), storage_options)
        raise UsageError(f"{url}: needs a package that is not installed: {said}{_extra(url)}") from None
    fs.invalidate_cache()
    return fs, path


def _extra(url: str) -> str:
    """Say which extra of curate brings the package for a URL, where one does."""
    return "; pip install 'curate[s3]'" if url.split(":")[0].lower() in ("s3", "s3a") else ""


def is_local(fs: AbstractFileSystem) -> bool:
    """Return True if a file system is the local disk."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def url_of(fs: AbstractFileSystem, path: str) -> str:
    """Return what `filesystem` makes (fs, path) of."""
    return path if is_local(fs) else str(fs.unstrip_protocol(path))


def open_binary(url: str, storage_options: StorageOptions = None) -> BinaryIO:
    """Open a file for reading, wherever it is; raises SourceError naming it if that fails."""
    with explained(url, storage_options):
        return open_remote(url, storage_options) if is_remote(url) else Path(local_path(url)).open("rb")


def open_remote(url: str, storage_options: StorageOptions) -> BinaryIO:
    """Open a file at a URL for reading; errors of opening are those of its file system, of reading SourceError."""
    fs, path = filesystem(url, storage_options)
    file = cast(BinaryIO, again(lambda: fs.open(path, "rb"), url))
    return cast(BinaryIO, RetryingFile(file, url, lambda: explained(url, storage_options)))


def version_of(url: str, storage_options: StorageOptions = None) -> str:
    """Return the version of a file as it is now: size and time, or size and ETag; raises SourceError where it is gone."""
    with explained(url, storage_options):
        fs, path = filesystem(url, storage_options)
        entry = lookup(fs, [path]).get(path)
    if entry is None or entry.is_folder:
        raise SourceError(f"{url}: the file is no longer there")
    return entry.version


def changed_at(url: str) -> str:
    """Return when a local file was last changed, in content or name; "" for one that is not on this machine.

    Unlike the time of a file, which `version_of` goes by, this one cannot be set back.
    """
    if is_remote(url):
        return ""
    try:
        return str(Path(local_path(url)).stat().st_ctime_ns)
    except OSError:
        return ""


def _ask(call: Callable[..., Any], path: str, **keywords: object) -> Any:  # noqa: ANN401  (as fsspec answers)
    """Return what a file system says of a path, asked again after a transient error."""

    def answer() -> Any:  # noqa: ANN401  (as fsspec answers)
        try:
            return call(path, **keywords)
        except FileNotFoundError as error:
            # fsspec says of whatever fails over HTTP that there is no such file; what it was stands behind that
            if (behind := error.__cause__) is None or not unreached(behind):
                raise
            raise behind from None

    return again(answer, path)


def has_magic(path: str) -> bool:
    """Return True if a path is a glob. In a web address a question mark begins its query.

    >>> has_magic("a?.parquet"), has_magic("https://host/a.parquet?download=true"), has_magic("https://host/*.parquet")
    (True, False, True)
    """
    marks = "*[" if path.lower().startswith(("http://", "https://")) else "*?["
    return any(character in path for character in marks)


def parent(path: str) -> str:
    """Return the folder of a path, as it is written."""
    return path.rpartition("/")[0]


def lookup(fs: AbstractFileSystem, paths: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of those `paths` that exist; many of one remote folder cost one listing."""
    if is_local(fs):
        entries = ((path, _local_entry(path)) for path in paths)
        return {path: entry for path, entry in entries if entry is not None}
    wanted = set(paths)
    crowded = {folder for folder, n in Counter(map(parent, wanted)).items() if n > 4}
    infos: dict[str, Any] = {}
    for folder in crowded:
        with contextlib.suppress(FileNotFoundError):
            infos |= {info["name"]: info for info in _ask(fs.ls, folder, detail=True)}
    for path in wanted:
        if parent(path) not in crowded and not has_magic(path):
            with contextlib.suppress(FileNotFoundError):
                infos[path] = _ask(fs.info, path)
    return {path: entry_of(infos[path]) for path in wanted if path in infos}


def matching(fs: AbstractFileSystem, pattern: str) -> dict[str, Entry]:
    """Return the files and folders that a glob matches, hidden ones too."""
    if is_local(fs):
        return lookup(fs, glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob follows no links)
    return {path: entry_of(info) for path, info in _ask(fs.glob, pattern, detail=True).items()}


def listing(fs: AbstractFileSystem, folder: str) -> dict[str, Entry]:
    """Return what lies directly in a folder by name, folders and broken links too; hidden names are left out."""
    if is_local(fs):
        paths = list(Path(folder).iterdir())
        _tell_hidden(f"{path}/" if path.is_dir() else str(path) for path in paths)
        found = {path.name: _local_entry(str(path)) for path in paths if path.name[0] not in "._"}
        return {name: entry or Entry(False, 0, "nothing") for name, entry in found.items()}
    names = ((info["name"].rstrip("/"), info) for info in _ask(fs.ls, folder, detail=True))
    inside = [(path.rpartition("/")[2], info) for path, info in names if path != folder.rstrip("/")]
    _tell_hidden(name + "/" * (info.get("type") == "directory") for name, info in inside if name)
    return {name: entry_of(info) for name, info in inside if name and name[0] not in "._"}


def walk(fs: AbstractFileSystem, folder: str) -> dict[str, Entry]:
    """Return all files below a folder; hidden ones (. and _) and those of run folders below it are left out."""
    if is_local(fs):
        return lookup(fs, list(_walk_local(folder)))
    found = _ask(fs.find, folder, detail=True)
    top = folder.rstrip("/")
    runs = tuple(
        f"{run}/"
        for run in (parent(path) for path in found if path.endswith("/recipe.yaml"))
        if run != top and any(f"{run}/{sign}" in found for sign in SIGNS_OF_A_RUN)
    )
    for run in runs:
        passed_over(run, A_RUN)
    outside = {path: info for path, info in found.items() if not path.startswith(runs)}
    hidden = {path: match for path in outside if (match := _HIDDEN.search(path[len(top) :]))}
    _tell_hidden({path[: len(top) + match.end()] for path, match in hidden.items()})
    return {path: entry_of(info) for path, info in outside.items() if path not in hidden}


def is_run_folder(fs: AbstractFileSystem, folder: str) -> bool:
    """Return True if a folder is one that curate wrote: what a run made is no source of data by itself."""

    def exists(name: str) -> bool:
        return _there(folder, name) if is_local(fs) else bool(_ask(fs.exists, f"{folder}/{name}"))

    return _is_store(folder, exists) or (exists("recipe.yaml") and any(map(exists, SIGNS_OF_A_RUN)))


def _is_store(folder: str, exists: Callable[[str], bool]) -> bool:
    return folder.endswith("/store") and all(map(exists, SIGNS_OF_A_STORE))


def _there(folder: str, name: str) -> bool:
    return Path(folder, name).exists()


def outside_runs(fs: AbstractFileSystem, files: dict[str, Entry], top: str) -> dict[str, Entry]:
    """Return the files that are in no run folder below `top`: those of a glob, which lists no folders."""
    found: dict[str, bool] = {}

    def inside(path: str) -> bool:
        for match in _IN_A_RUN.finditer(path, len(top)):
            run = path[: match.start()]
            if run not in found:
                found[run] = is_run_folder(fs, run)
                if found[run]:
                    passed_over(f"{run}/", A_RUN)
            if found[run]:
                return True
        return False

    return {path: entry for path, entry in files.items() if not inside(path)}


def _tell_hidden(paths: Iterable[str]) -> None:
    """Say which of these files and folders (ending in a slash) are passed over, because they are hidden."""
    if is_counted():
        for path in sorted(paths):
            if path.rstrip("/").rpartition("/")[2][:1] in (".", "_"):
                passed_over(path, "hidden")


def _walk_local(folder: str) -> Iterator[str]:
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_unlisted):
        real = os.path.realpath(here)
        looked_into = "recipe.yaml" in names or here.endswith("/store")
        if here != folder and looked_into and is_run_folder(fsspec.filesystem("file"), here):
            passed_over(f"{here}/", A_RUN)
            folders[:] = []
            continue
        if real not in seen:
            _tell_hidden([*(f"{here}/{name}/" for name in folders), *(f"{here}/{name}" for name in names)])
        folders[:] = [] if real in seen else [name for name in folders if name[0] not in "._"]
        if real not in seen:
            yield from (os.path.join(here, name) for name in names if name[0] not in "._")  # noqa: PTH118
        seen.add(real)


def _unlisted(error: OSError) -> None:
    """Raise for a folder that cannot be listed: what it holds would be missing without a word."""
    if isinstance(error, FileNotFoundError):  # it went meanwhile
        return
    if not str(error.filename).endswith(f"/{LOST}"):
        raise error
    passed_over(f"{error.filename}/", "of the file system")


def _local_entry(path: str) -> Entry | None:
    try:
        found = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    return Entry(stat.S_ISDIR(found.st_mode), found.st_size, f"{found.st_size}-{found.st_mtime_ns}")


def entry_of(info: Mapping[str, Any]) -> Entry:
    """Return the entry for what a remote file system says of one path."""
    size = int(info.get("size") or 0)
    sign = next((info[key] for key in SIGNS if info.get(key)), "")
    if isinstance(sign, datetime.datetime):
        sign = sign.timestamp()
    text = f"{sign:.6f}" if isinstance(sign, float) else str(sign).strip('"')
    return Entry(info.get("type") == "directory", size, f"{size}-{text}")
