"""JSON that a run relies on, with a checksum of its values by which a flipped bit is noticed."""

import json
from collections.abc import Mapping
from typing import Any

from curate.hashing import digest

__all__ = ["MARKER", "SIDECAR_SUFFIX", "verified", "with_checksum"]

#: The file by which a folder says that its stage is finished, with the records of the other files.
MARKER = "_done.json"
#: Ends the hidden file beside a file that holds its record, until its stage is finished.
SIDECAR_SUFFIX = ".seal"
CHECK = "checksum"
ITEMS = "list"


def with_checksum(value: Mapping[str, Any] | list[Any]) -> dict[str, Any]:
    """Return `value` with the hash of all that it says, by which a flipped bit in its JSON is noticed.

    A list goes under the name `list`.
    """
    value = {ITEMS: value} if isinstance(value, list) else value
    plain = json.loads(json.dumps(value))  # keys as they will be read back
    return {**value, CHECK: digest(json.dumps(plain, sort_keys=True))}


def verified(found: Any) -> Any:  # noqa: ANN401  (JSON may hold anything)
    """Return what JSON with a checksum says, without it; None if it says something else than was written.

    >>> verified(with_checksum({"rows": 3})), verified(with_checksum({"rows": 3}) | {"rows": 7}), verified({"rows": 3})
    ({'rows': 3}, None, {'rows': 3})
    >>> verified(with_checksum([1, 2]))
    [1, 2]
    """
    if not isinstance(found, dict) or CHECK not in found:
        return found
    value = {name: item for name, item in found.items() if name != CHECK}
    if with_checksum(value)[CHECK] != found[CHECK]:
        return None
    return value[ITEMS] if list(value) == [ITEMS] else value
