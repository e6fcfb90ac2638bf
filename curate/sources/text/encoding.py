"""Text of files that say nothing of their encoding: UTF-8 with or without a byte order mark, UTF-16, Windows-1252."""

import codecs
import io
from typing import BinaryIO

__all__ = ["UTF8_MARK", "as_utf8", "decoded", "storable"]

UTF8_MARK = codecs.BOM_UTF8
#: Byte order marks and what they stand for; that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip
_CHUNK = 1 << 16


def decoded(data: bytes) -> tuple[str, str | None]:
    r"""Return (text, encoding) of bytes; the encoding is None where it is UTF-8. A byte order mark is no text.

    What is no UTF-8 is Windows-1252, of which Latin-1 is a part (bytes that mean nothing there are Latin-1). Where
    other characters are sound UTF-8 it is UTF-8 with damage instead, and what is damaged becomes U+FFFD.

    >>> decoded(b"\xef\xbb\xbfcaf\xc3\xa9"), decoded(b"caf\xe9 \x93x\x94"), decoded(b"\xff\xfea\0")
    (('café', None), ('café “x”', 'Windows-1252'), ('a', 'UTF-16'))
    >>> decoded(b"caf\xc3\xa9 \xe9")
    ('café �', 'damaged UTF-8')
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, "replace"), name
    data = data.removeprefix(UTF8_MARK)
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        replaced = data.decode("utf-8", "replace")
    if any(not char.isascii() and char != "\ufffd" for char in replaced):
        return replaced, "damaged UTF-8"
    try:
        return data.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "Latin-1"


def as_utf8(file: BinaryIO, head: bytes) -> tuple[BinaryIO, str | None]:
    """Return a file that gives UTF-8, and the encoding it is in where that is another: UTF-16 or UTF-32 by its mark.

    head : the first four bytes; the file stands at its beginning.
    """
    name = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    return (file, None) if name is None else (io.BufferedReader(_Recoded(file, name), _CHUNK), name)


def storable(text: str) -> str:
    """Return `text` with what UTF-8 cannot say (lone surrogates) replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


class _Recoded(io.RawIOBase):
    """Reads a file in another encoding as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._waiting = b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer; return how many bytes it has got, 0 at the end."""
        while not self._waiting:
            data = self._file.read(_CHUNK)
            self._waiting = self._decoder.decode(data, final=not data).encode("utf-8", "replace")
            if not data:
                break
        size = min(len(buffer), len(self._waiting))
        buffer[:size], self._waiting = self._waiting[:size], self._waiting[size:]
        return size
