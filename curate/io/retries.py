"""Trying again what a remote file system could not do just now: a reset, a timeout, an overloaded server.

What would fail again is not tried again: a file that is not there, a key that is not accepted.
"""

import errno
import io
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import sleep
from typing import Any, BinaryIO, TypeVar

__all__ = ["PAUSES_S", "RetryingFile", "again", "transient", "unreached"]

#: How long to wait before each new try; there are as many.
PAUSES_S = (0.5, 1.0, 2.0, 4.0)

_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_ERRNO = frozenset(
    {
        errno.EAGAIN, errno.EBUSY, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED,
        errno.ECONNREFUSED, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    }
)  # fmt: skip
#: Errors of HTTP clients that are no OSError, by the names of their classes: no client is imported for them.
_NAMES = frozenset(
    {
        "ClientConnectionError", "ClientPayloadError", "ConnectionClosedError", "ConnectTimeoutError",
        "EndpointConnectionError", "HTTPClientError", "IncompleteRead", "IncompleteReadError", "NetworkError",
        "ProtocolError", "ReadTimeoutError", "RemoteProtocolError", "TimeoutException", "TransferEncodingError",
    }
)  # fmt: skip
_PERMANENT = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)

Result = TypeVar("Result")
log = logging.getLogger("curate")


def transient(error: BaseException) -> bool:
    """Return True if the same call may well succeed a moment later, judging by an error and by what caused it.

    >>> transient(ConnectionResetError()), transient(TimeoutError()), transient(FileNotFoundError())
    (True, True, False)
    """
    if isinstance(error, _PERMANENT):
        return False
    if (status := _status(error)) is not None:
        return status in _STATUS
    if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None) in _ERRNO:
        return True
    if any(kind.__name__ in _NAMES for kind in type(error).__mro__):
        return True
    return error.__cause__ is not None and transient(error.__cause__)


def unreached(error: BaseException) -> bool:
    """Return True if an error of an HTTP client says that no server answered, or that it lets nobody in: 401 and 403.

    >>> unreached(ConnectionRefusedError()), unreached(FileNotFoundError())
    (True, False)
    """
    if (status := _status(error)) is not None:
        return status in (401, 403)
    named = {kind.__name__ for kind in type(error).__mro__}
    return not isinstance(error, FileNotFoundError) and bool(named & {*_NAMES, "OSError"})


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error of any client tells, under the name that the client has for it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return _number(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    found = (_number(getattr(error, name, None)) for name in ("status", "status_code", "code"))
    return next((status for status in found if status is not None), None)


def _number(value: object) -> int | None:
    text = str(value)
    return int(text) if len(text) == 3 and text.isdigit() else None


def again(call: Callable[[], Result], what: str, *, before: Callable[[], object] | None = None) -> Result:
    """Return what `call` returns; after a transient error wait and call again, at most as often as PAUSES_S says.

    what : names it in the log. before : called ahead of every new try. The last error notes the number of tries.
    """
    for number, pause in enumerate(PAUSES_S, 1):
        try:
            return call()
        except Exception as error:
            if not transient(error):
                raise
            log.debug("%s: %s; try %d follows in %g s", what, type(error).__name__, number + 1, pause)
        sleep(pause)
        if before is not None:
            before()
    try:
        return call()
    except Exception as error:
        if transient(error):
            error.add_note(f"tried {len(PAUSES_S) + 1} times")
        raise


class RetryingFile(io.RawIOBase):
    """A remote file, open for reading, whose reads are tried again.

    explained : what turns an error into one that names the file (`files.explained`).
    """

    def __init__(
        self, file: BinaryIO, url: str, explained: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__()
        self._file, self._url, self._explained = file, url, explained

    def _again(self, call: Callable[[], Result]) -> Result:
        place = self._file.tell()
        try:
            return again(call, self._url, before=lambda: self._file.seek(place))
        except Exception:
            with self._explained():  # entered only here: most reads are small and succeed
                raise

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, all that are left where it is negative or None."""
        return self._again(lambda: self._file.read(-1 if size is None else size))

    def readall(self) -> bytes:
        """Return all bytes that are left."""
        return self.read()

    def readline(self, size: int | None = -1) -> bytes:
        """Return the rest of the line, up to `size` bytes."""
        return self._again(lambda: self._file.readline(-1 if size is None else size))

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  (any writable buffer)
        """Fill a buffer from the file; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; return it."""
        return self._again(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def readable(self) -> bool:
        """Return True if it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Return True if it can go to a place."""
        return self._file.seekable()

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()
