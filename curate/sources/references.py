"""Images that a row names by a path or URL: untrusted, and followed only where `access` and `allow_url` let them lead."""

import http.client
import re
from pathlib import Path
from typing import BinaryIO

from curate.errors import SourceError
from curate.io.filesystem import StorageOptions, cause, is_remote, masked, open_remote, require_enough
from curate.io.names import original
from curate.sources.access import PathAccess, RefusedPathError, found_path, open_path, path_refusal
from curate.sources.addresses import MAX_IMAGE_BYTES, RefusedError, Take, UrlAccess, counted, fetch, uncounted

__all__ = ["follow", "local_file", "refusal"]

#: Only what lies below the folder of the shard.
BESIDE = PathAccess()

_SCHEME = re.compile(r"^(data(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=://))", re.IGNORECASE)


def refusal(
    reference: str, shard_url: str, *, allow_url: UrlAccess | bool = False, access: PathAccess = BESIDE
) -> str | None:
    """Say why a path that a row gives must not be opened, judging by its text; None if it may be."""
    reference = access.named(original(reference))
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
    allow_url: UrlAccess | bool = False,
    access: PathAccess = BESIDE,
    take: Take = uncounted,
) -> tuple[bytes | None, str, str | None]:
    """Return (bytes, outcome, reason) of the image at a path or URL that a row gives.

    A path is taken below the folder of the shard, or where `access` says; one that leads elsewhere, by text or by
    a symbolic link, is `refused_path`, and so is an address inside the network unless `allow_url` is ANY. What cannot
    be read is `missing_image`. take : counts what is read, see `addresses.Take`.
    """
    refused = refusal(reference, shard_url, allow_url=allow_url, access=access)
    if refused is not None:
        return None, "refused_path", refused
    reference = access.named(original(reference))
    try:
        if re.match("https?://", reference, re.IGNORECASE):
            data = fetch(reference, private=allow_url == UrlAccess.ANY, take=take)
        else:
            with _open_reference(reference, shard_url, storage_options, access) as file:
                data = counted(file, take)
    except (RefusedPathError, RefusedError) as error:
        return None, "refused_path", str(error)
    except FileNotFoundError:
        return None, "missing_image", "no such file"
    except (OSError, ValueError, RuntimeError, SourceError, http.client.HTTPException) as error:
        require_enough(error, f"the image {reference!r}")
        return None, "missing_image", masked(f"cannot be read: {cause(error)}", storage_options)
    if len(data) > MAX_IMAGE_BYTES:
        return None, "too_large", f"the file has more than {MAX_IMAGE_BYTES:,} bytes"
    if not data:
        return None, "missing_image", "the file is empty"
    return data, "ok", None


def local_file(reference: str, shard_url: str, access: PathAccess = BESIDE) -> Path | None:
    """Return the file on this machine that a path of a row leads to, as `follow` would; None where there is none."""
    path = access.named(original(reference))
    if refusal(reference, shard_url, access=access) is not None or is_remote(path):
        return None
    try:
        return found_path(path, shard_url, access)
    except (OSError, ValueError, RuntimeError, RefusedPathError):
        return None


def _open_reference(
    reference: str, shard_url: str, storage_options: StorageOptions, access: PathAccess
) -> BinaryIO:
    if is_remote(reference):
        return open_remote(reference, storage_options)
    return open_path(reference, shard_url, storage_options, access)
