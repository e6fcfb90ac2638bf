r"""Names of files as text: those that are not UTF-8 are written with ``\x83`` for a byte that means nothing.

Python gives such a byte as a lone surrogate, which no table, JSON or terminal takes. The escape can be undone: two
names are never written alike, and a name that holds ``\x83`` in plain letters gets its backslashes doubled.
"""

import re

__all__ = ["in_markdown", "original", "printable"]

_ESCAPED = re.compile(r"(\\+)(?=x[89a-f][0-9a-f]|[\udc80-\udcff])|([\udc80-\udcff])")
#: What Markdown takes for markup anywhere in a line, and what it takes for it at the head of one.
_MARKUP = re.compile(r"([\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_]))")
_HEAD = re.compile(r"^([#+=-]|\d+(?=[.)]))")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_WRITTEN = re.compile(r"(\\+)x([89a-f][0-9a-f])")


def printable(name: str) -> str:
    r"""Return a name as UTF-8 can say it.

    >>> printable("a\udc83.jpg"), printable("caf\xe9.jpg"), printable(r"a\x83.jpg"), printable("C:\\new")
    ('a\\x83.jpg', 'café.jpg', 'a\\\\x83.jpg', 'C:\\new')
    """
    return _ESCAPED.sub(lambda m: m[1] * 2 if m[1] else f"\\x{ord(m[2]) - 0xDC00:02x}", name)


def in_markdown(text: str) -> str:
    r"""Return text as one line of Markdown, in a cell of a table too, that shows it and obeys nothing in it.

    >>> in_markdown("![x](https://a.b) <img> a_b | `c`"), in_markdown("1. __x__")
    ('!\\[x\\](https://a.b) &lt;img&gt; a_b \\| \\`c\\`', '1\\. \\_\\_x\\_\\_')
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    line = _MARKUP.sub(r"\\\1", "".join(_ENTITIES.get(char, char) for char in line))
    return _HEAD.sub(lambda found: f"{found[1]}\\" if found[1].isdigit() else f"\\{found[1]}", line)


def original(name: str) -> str:
    r"""Return the name that `printable` wrote so.

    >>> original(r"a\x83.jpg") == "a\udc83.jpg", original(r"a\\x83.jpg"), original("plain")
    (True, 'a\\x83.jpg', 'plain')
    """

    def written(match: re.Match[str]) -> str:
        before = match[1][: len(match[1]) // 2]
        return before + (chr(0xDC00 + int(match[2], 16)) if len(match[1]) % 2 else f"x{match[2]}")

    return _WRITTEN.sub(written, name)
