"""Keeping secrets out of everything that is written: options of a file system lose their value, unless it is harmless.

A secret may have any name (a cookie, a header of some service, a session), so what is known to be harmless is listed,
and not what is known to be a secret.
"""

import re
from collections.abc import Iterator, Mapping

__all__ = ["HIDDEN", "NO_PASSWORD", "hidden_values", "redacted", "with_password"]

#: What stands in a recipe in place of a secret that was given literally.
HIDDEN = "<not kept>"

#: Options that say where and how, by the names that fsspec and its file systems have for them.
_HARMLESS = frozenset(
    {
        "access", "addressing_style", "anon", "asynchronous", "auto_mkdir", "batch_size", "block_size", "branch",
        "cache_regions", "cache_type", "check_connection", "connect_timeout", "consistency", "default_block_size",
        "default_cache_type", "default_fill_cache", "encoded", "endpoint", "endpoint_override", "endpoint_url",
        "fixed_upload_size", "host", "listings_expiry_time", "location", "max_attempts", "max_concurrency", "max_paths",
        "max_pool_connections", "mode", "port", "project", "protocol", "read_timeout", "region", "region_name",
        "repo_id", "repo_type", "requester_pays", "requests_timeout", "retries", "revision", "same_names",
        "signature_version", "simple_links", "size_policy", "skip_instance_cache", "tcp_keepalive", "timeout",
        "trust_env", "use_dualstack_endpoint", "use_listings_cache", "use_ssl", "user", "username", "verify",
        "version_aware",
    }
)  # fmt: skip
#: Options that hold others of the kind; below any other name (headers) nothing is known to be harmless.
_CONTAINERS = frozenset(
    {"client_kwargs", "config_kwargs", "hf", "retries", "s3", "s3_additional_kwargs", "target_options"}
)
#: What is said of a URL that holds one.
NO_PASSWORD = "must not hold a password, a token or a signature; give what the store wants in storage_options, as ${NAME}"
_VARIABLE = re.compile(r"(?:\w+ )?\$\{\w+\}")
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+@")
#: What gives access in the query of a web address: a signature, a token, a key.
_IN_QUERY = re.compile(
    r"(?<=[?&])((?:[\w.-]*[-_.])?(?:sig|signature|token|secret|password|pwd|credential|auth|key|api_?key|(?:aws)?accesskeyid)=)"
    r"[^&\s]+",
    re.IGNORECASE,
)


def with_password(text: str) -> bool:
    """Return True if a URL holds a password, a token or a signature (not the name of an environment variable).

    >>> with_password("ftp://me:secret@host/x"), with_password("s3://bucket/a:b@c")
    (True, False)
    >>> with_password("https://host/x?v=1&X-Amz-Signature=0af"), with_password("https://host/x?download=true&monkey=1")
    (True, False)
    """
    found = _PASSWORD.search(text) or (_IN_QUERY.search(text) if "://" in text else None)
    return found is not None and "${" not in found[0]


def redacted(value: object, name: str = "") -> object:
    """Return options of a file system without secrets: other than harmless ones, only `${ENV}` and truth values stay.

    >>> redacted({"key": "AKIA", "secret": "${S3_SECRET}", "anon": False, "region": "eu", "headers": {"Cookie": "a=b"}})
    {'key': '<not kept>', 'secret': '${S3_SECRET}', 'anon': False, 'region': 'eu', 'headers': {'Cookie': '<not kept>'}}
    """
    if isinstance(value, Mapping):
        inner = {key: f"{name}.{key}" for key in value}
        return {key: redacted(item, inner[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and _VARIABLE.fullmatch(value):
        return value
    *around, own = name.removeprefix(".").split(".")
    if name and (own not in _HARMLESS or not _CONTAINERS.issuperset(around)):
        return HIDDEN
    if isinstance(value, str) and with_password(value):
        return _IN_QUERY.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1:{HIDDEN}@", value))
    return value


def hidden_values(value: object, name: str = "") -> Iterator[str]:
    """Yield what `redacted` takes out of options, so that no message shows it either."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from hidden_values(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from hidden_values(item, name)
    elif redacted(value, name) == HIDDEN:
        yield str(value)
