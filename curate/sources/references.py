"""Images that a row names by a path or URL: untrusted, and followed only where `access` and `allow_url` let them lead."""

import http.client
import io
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from curate.errors import SourceError
from curate.io.filesystem import StorageOptions, cause, is_remote, masked, open_remote
from curate.sources.access import PathAccess, RefusedPathError, found_path, open_path, path_refusal

__all__ = ["follow", "local_file", "refusal"]

#: Only what lies below the folder of the shard.
BESIDE = PathAccess()
MAX_IMAGE_BYTES = 256 << 20
URL_TIMEOUT_S = 20

_SCHEME = re.compile(r"^(data(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://))", re.IGNORECASE)


def refusal(
    reference: str, shard_url: str, *, allow_url: bool = False, access: PathAccess = BESIDE
) -> str | None:
    """Say why a path that a row gives must not be opened, judging by its text; None if it may be."""
    reference = access.named(reference)
    if "\0" in reference or "::" in reference:
        return "the path holds characters that no image path has"
    scheme = _SCHEME.match(reference)
    if scheme is not None and scheme[1].lower() in ("file", "local") and (access.roots or access.outside):
        return path_refusal(reference, shard_url, access)
    if scheme is not None and any(reference.startswith(f"{root.rstrip('/')}/") for root in access.roots):
        return None
    if scheme is not None:
        allowed = {"http", "https"}
        if is_remote(shard_url):
            allowed.add(shard_url.split(":")[0].lower())
        if not allow_url:
            return "the path is a URL, and source.allow does not list url"
        return None if scheme[1].lower() in allowed else f"{scheme[1]}: addresses are never opened"
    return path_refusal(reference, shard_url, access)


def follow(
    reference: str,
    shard_url: str,
    storage_options: StorageOptions = None,
    *,
    allow_url: bool = False,
    access: PathAccess = BESIDE,
) -> tuple[bytes | None, str, str | None]:
    """Return (bytes, outcome, reason) of the image at a path or URL that a row gives.

    A path is taken below the folder of the shard, or where `access` says; one that leads elsewhere, by text or by
    a symbolic link, is `refused_path`. What cannot be read is `missing_image`.
    """
    refused = refusal(reference, shard_url, allow_url=allow_url, access=access)
    if refused is not None:
        return None, "refused_path", refused
    reference = access.named(reference)
    try:
        with _open_reference(reference, shard_url, storage_options, access) as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except RefusedPathError as error:
        return None, "refused_path", str(error)
    except FileNotFoundError:
        return None, "missing_image", "no such file"
    except (OSError, ValueError, RuntimeError, SourceError, http.client.HTTPException) as error:
        return None, "missing_image", masked(f"cannot be read: {cause(error)}", storage_options)
    if len(data) > MAX_IMAGE_BYTES:
        return None, "too_large", f"the file has more than {MAX_IMAGE_BYTES:,} bytes"
    if not data:
        return None, "missing_image", "the file is empty"
    return data, "ok", None


def local_file(reference: str, shard_url: str, access: PathAccess = BESIDE) -> Path | None:
    """Return the file on this machine that a path of a row leads to, as `follow` would; None where there is none."""
    if refusal(reference, shard_url, access=access) is not None or is_remote(access.named(reference)):
        return None
    try:
        return found_path(access.named(reference), shard_url, access)
    except (OSError, ValueError, RuntimeError, RefusedPathError):
        return None


def _open_reference(
    reference: str, shard_url: str, storage_options: StorageOptions, access: PathAccess
) -> BinaryIO:
    if re.match("https?://", reference, re.IGNORECASE):
        return _open_url(reference)
    if is_remote(reference):
        return open_remote(reference, storage_options)
    return open_path(reference, shard_url, storage_options, access)


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
