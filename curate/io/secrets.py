"""Keeping secrets out of everything that is written: options with a telling name lose their value."""

import re
from collections.abc import Mapping

__all__ = ["HIDDEN", "redacted", "with_password"]

#: What stands in a recipe in place of a secret that was given literally.
HIDDEN = "<not kept>"

_TELLING = re.compile(
    r"secret|token|passw|pwd|passphrase|key|credential|signature|auth|sas|connection_string",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"(?:\w+ )?\$\{\w+\}")
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/@\s]+@")


def with_password(text: str) -> bool:
    """Whether a URL holds a password (not the name of an environment variable).

    >>> with_password("ftp://me:secret@host/x"), with_password("s3://bucket/a:b@c")
    (True, False)
    """
    found = _PASSWORD.search(text)
    return found is not None and "${" not in found[0]


def redacted(value: object, name: str = "") -> object:
    """Return `value` without secrets: below names that tell of one, only `${ENV}` and truth values stay.

    >>> redacted({"key": "AKIA", "secret": "${S3_SECRET}", "anon": False, "region": "eu"})
    {'key': '<not kept>', 'secret': '${S3_SECRET}', 'anon': False, 'region': 'eu'}
    """
    if isinstance(value, Mapping):
        inner = {key: f"{name}.{key}" for key in value}
        return {key: redacted(item, inner[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, name) for item in value]
    if _TELLING.search(name) and value is not None and not isinstance(value, bool):
        return value if isinstance(value, str) and _VARIABLE.fullmatch(value) else HIDDEN
    return (
        _PASSWORD.sub(rf"\1:{HIDDEN}@", value) if isinstance(value, str) and with_password(value) else value
    )
