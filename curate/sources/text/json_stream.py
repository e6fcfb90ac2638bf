"""A JSON file of any size as it is parsed: value by value, of which a window of text is held."""

import contextlib
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from curate.errors import SourceError
from curate.io import filesystem
from curate.sources.base import Shard
from curate.sources.text.encoding import as_utf8
from curate.sources.text.lines import MAX_RECORD_BYTES

__all__ = ["JsonStream", "opened"]

CHUNK = 1 << 20
_SPACE = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()


class JsonStream:
    """A file as text, of which a window is held."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self.where, self._ended = file, where, False
        self._rest, self._text, self._place = b"", "", 0
        self._more()
        self._text = self._text.removeprefix("\ufeff")

    def _more(self) -> bool:
        """Read on; False at the end of the file."""
        data = self._file.read(max(CHUNK, len(self._text) - self._place))
        self._ended = not data
        data = self._rest + data
        whole = len(data) if self._ended else max(data.rfind(b"\n"), data.rfind(b"}"), data.rfind(b",")) + 1
        self._rest = data[whole:]
        if len(self._rest) > MAX_RECORD_BYTES:
            raise SourceError(f"{self.where}: a value has more than {MAX_RECORD_BYTES:,} bytes")
        self._text = self._text[self._place :] + data[:whole].decode("utf-8", "replace")
        self._place = 0
        return not self._ended

    def peek(self) -> str:
        """Return the next character that is neither space nor comma; "" at the end."""
        while True:
            self._place = cast(re.Match[str], _SPACE.match(self._text, self._place)).end()
            if self._place < len(self._text) or (not self._more() and self._place >= len(self._text)):
                return self._text[self._place : self._place + 1]

    def skip(self, expected: str) -> None:
        """Pass one character; SourceError where another stands."""
        if self.peek() != expected:
            raise SourceError(f"{self.where}: not valid JSON: expected {expected!r}, found {self.peek()!r}")
        self._place += 1

    def value(self) -> Any:  # noqa: ANN401  (any JSON)
        """Return the next value; SourceError where there is none, or it is too large."""
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._place)
            except RecursionError:
                raise SourceError(f"{self.where}: not valid JSON: nested too deeply") from None
            except ValueError as error:
                if len(self._text) - self._place > MAX_RECORD_BYTES:
                    raise SourceError(
                        f"{self.where}: a value has more than {MAX_RECORD_BYTES:,} bytes"
                    ) from None
                if self._ended or (not self._more() and not self._text[self._place :].strip()):
                    raise SourceError(f"{self.where}: not valid JSON, or cut short: {error}") from None
                continue
            if end == len(self._text) and not self._ended:
                self._more()  # a number may go on
                continue
            self._place = end
            return found

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the array that comes next."""
        self.skip("[")
        while (next_one := self.peek()) != "]":
            if not next_one:
                raise SourceError(f"{self.where}: not valid JSON: the file ends within a list")
            yield self.value()
        self.skip("]")

    def fields(self) -> Iterator[str]:
        """Yield the keys of the object that comes next; the caller takes each value, with `value` or `elements`."""
        self.skip("{")
        while (next_one := self.peek()) != "}":
            if next_one != '"':
                raise SourceError(f"{self.where}: not valid JSON: a key is missing")
            key = self.value()
            self.skip(":")
            yield str(key)
        self.skip("}")


@contextlib.contextmanager
def opened(shard: Shard) -> Iterator[JsonStream]:
    """Give the stream of a shard; SourceError where it cannot be read."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(filesystem.open_binary(shard.url, shard.storage_options))
        if shard.url.lower().endswith(".gz"):
            file = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=file)))
        try:
            head = file.read(4)
            file.seek(0)
            yield JsonStream(as_utf8(file, head)[0], shard.url)
        except (OSError, EOFError, zlib.error) as error:
            text = filesystem.masked(filesystem.cause(error), shard.storage_options)
            raise SourceError(f"{shard.url}: cannot be read: {text}") from error
