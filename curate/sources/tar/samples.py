"""Samples of a WebDataset tar: members with one key that stand next to each other.

The key of a member is its name up to the first dot of the last part of its path; the rest, in lower case, is its
suffix. A key that comes again begins a row of its own, which says so: nothing is merged, nothing left out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from curate.errors import SourceError
from curate.sources.base import Shard
from curate.sources.tar.tar import AFTER_END, DAMAGED, DIRECTORY, FILE, Member, opened

__all__ = [
    "EXAMPLES", "HIDDEN", "IMAGES", "MAX_SAMPLE_BYTES", "MAX_SUFFIXES", "STRAY", "Ignored", "Sample", "samples", "split_name",
]  # fmt: skip

#: A sample of more bytes is not read: memory must hold it whole.
MAX_SAMPLE_BYTES = 256 << 20
#: Each suffix is a column. More of them are names with dots in them, not kinds of members.
MAX_SUFFIXES = 1000
#: What keys of one tar may take in memory, and about what one takes beside its text.
MAX_KEY_BYTES = 1 << 30
KEY_OVERHEAD = 300
#: Suffixes of images, the preferred first.
IMAGES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm", "pgm",
    "pbm", "pnm", "tga",
)  # fmt: skip
#: Names (without what follows the first dot) of members that are about a tar and no sample of it.
ABOUT = frozenset({
    "readme", "license", "licence", "copying", "notice", "changelog", "citation", "thumbs", "desktop", "sha256sums",
    "md5sums", "checksums",
})  # fmt: skip
#: Kinds of ignored members that one expects in tars.
HIDDEN, STRAY = "hidden", "about the tar, not of a sample"
#: Of how many ignored members the names are kept, of each kind.
EXAMPLES = 3


@dataclass
class Sample:
    """One row of a tar: its members by suffix, and the bytes of those that were asked for.

    outcome : a key of `schema.OUTCOMES` that the members decide; `ok` where the members are sound.
    """

    row: int
    key: str | None
    names: dict[str, str] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    outcome: str = "ok"
    reason: str | None = None
    size: int = 0

    def fail(self, outcome: str, reason: str) -> None:
        """Make the sample unusable, unless it is already."""
        if self.outcome == "ok":
            self.outcome, self.reason = outcome, reason


@dataclass
class Ignored:
    """Members that belong to no sample: how many of each kind, and the first names."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        """Note one member."""
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            self.names.setdefault(kind, []).append(name)

    def add_all(self, kind: str, names: Iterable[str]) -> None:
        """Note several members of one kind."""
        for name in names:
            self.add(kind, name[:100])

    def without(self, kinds: Sequence[str]) -> "Ignored":
        """Return the same without these kinds."""
        return Ignored(Counter({kind: n for kind, n in self.counts.items() if kind not in kinds}), self.names)

    def __str__(self) -> str:
        """Return the counts and names in one line."""
        return "; ".join(f"{n:,} {kind} ({', '.join(self.names[kind])})" for kind, n in self.counts.items())


def split_name(name: str) -> tuple[str, str] | None:
    """Return (key, suffix) of a member's name, or None where it has not both.

    >>> split_name("a.b/001.Seg.PNG"), split_name("LICENSE")
    (('a.b/001', 'seg.png'), None)
    """
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return (f"{folder}{slash}{stem}", suffix.lower()) if stem and suffix else None


def samples(
    shard: Shard, wanted: Callable[[int, str], bool], ignored: Ignored | None = None
) -> Iterator[Sample]:
    """Yield the samples of a tar in the order of their first members, in one pass.

    wanted : (row, suffix) to whether the bytes of that member are read. Memory holds one sample and the keys.
    Raises SourceError for a file that is no tar, or that ends before its first sample.
    """
    skipped = Ignored() if ignored is None else ignored
    seen = _Keys(shard)
    strays = shard.rules >= 2
    with opened(shard) as tar:
        sample: Sample | None = None
        rows = 0
        for member in tar:
            named = None if _ignored(member, skipped) else split_name(member.name)
            if named is None and member.kind != DAMAGED:
                continue
            key, suffix = named or (None, "")
            seen.note(suffix)
            if sample is None or key is None or key != sample.key or suffix in sample.names:
                if sample is not None and strays and _is_stray(sample):
                    skipped.add_all(STRAY, sample.names.values())
                    rows -= 1
                elif sample is not None:
                    yield seen.judged(sample)
                sample, rows = Sample(rows, key), rows + 1
            if key is None:
                sample.fail("bad_row", f"damaged: no member can be read from byte {member.offset:,} on")
            elif _usable(sample, suffix, member) and wanted(sample.row, suffix):
                data = tar.read(member)
                if data is not None:
                    sample.data[suffix] = data
        if tar.cut and sample is None:
            raise SourceError(f"{shard.url}: {tar.cut}, before the first sample")
        if sample is not None and strays and _is_stray(sample) and not tar.cut:
            skipped.add_all(STRAY, sample.names.values())
        elif sample is not None:
            yield _cut(seen.judged(sample), tar.cut)


def _is_stray(sample: Sample) -> bool:
    """Return True if the members of a sample are about the tar: a README, an index; one with an image is none."""
    name = (sample.key or "").rpartition("/")[2]
    about = name.lower() in ABOUT or (name.startswith("__") and name.endswith("__"))
    return about and not any(suffix.rpartition(".")[2] in IMAGES for suffix in sample.names)


def _ignored(member: Member, ignored: Ignored) -> bool:
    """Return True if a member belongs to no sample; those that one would not expect are noted."""
    if member.kind in (DIRECTORY, DAMAGED):
        return member.kind == DIRECTORY
    parts = member.name.split("/")
    kind = None
    if member.kind == AFTER_END:
        kind = "stretch of data after the end mark"
    elif any(part[:1] == "." and part not in (".", "..") for part in parts) or "__MACOSX" in parts:
        kind = HIDDEN
    elif any(part.startswith("PaxHeader") for part in parts[:-1]):
        kind = "extended header unpacked as a file"
    elif split_name(member.name) is None:
        kind = "without an ending" if member.kind == FILE else member.kind.removeprefix("a ")
    if kind is not None:
        ignored.add(kind, member.name[:100])
    return kind is not None


def _usable(sample: Sample, suffix: str, member: Member) -> bool:
    """Add a member to a sample; return whether it may be read."""
    sample.names[suffix] = member.name
    unsafe = _unsafe(member.name)
    if member.kind != FILE:
        sample.fail("bad_row", f"{member.name!r} is {member.kind}, which is never followed")
    elif unsafe is not None:
        sample.fail("bad_row", f"{member.name!r}: {unsafe}")
    elif sample.size + member.size > MAX_SAMPLE_BYTES:
        sample.fail(
            "too_large", f"{member.name!r} has {member.size:,} bytes; a sample may have {MAX_SAMPLE_BYTES:,}"
        )
    else:
        sample.size += member.size
        return True
    return False


def _unsafe(name: str) -> str | None:
    """Say why a name must not be the name of a file; None if it may."""
    parts = name.replace("\\", "/").split("/")
    if "\0" in name:
        return "the name holds a null character"
    if parts[0] == "" or (len(parts[0]) == 2 and parts[0][1] == ":"):
        return "the name is an absolute path"
    return "the name holds '..'" if ".." in parts else None


def _cut(sample: Sample, cut: str | None) -> Sample:
    """Mark the last sample of a tar that ends too early: members of it may be missing."""
    if cut is not None:
        sample.outcome, sample.reason = "truncated", cut
    return sample


class _Keys:
    """The keys seen in a tar, each with its first row and its suffixes as bits of a number."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._seen: dict[str, tuple[int, int]] = {}
        self._bits: dict[str, int] = {}
        self._held = 0

    def note(self, suffix: str) -> None:
        """Take in a suffix; raises SourceError where there are more than there can be columns."""
        self._bits.setdefault(suffix, 1 << len(self._bits))
        if len(self._bits) > MAX_SUFFIXES:
            raise SourceError(
                f"{self._shard.url}: more than {MAX_SUFFIXES:,} kinds of members, the last {suffix[:60]!r}; "
                "what follows the first dot of a name is its kind: take dots out of the names"
            )

    def judged(self, sample: Sample) -> Sample:
        """Return a sample whose members are all there, unusable where its key came before."""
        if sample.key is None:
            return sample
        mine = sum(self._bits[suffix] for suffix in sample.names)
        first, before = self._seen.get(sample.key, (sample.row, 0))
        if before:
            again = ", ".join(suffix for suffix in sample.names if self._bits[suffix] & before)
            outcome = "duplicate_key" if again else "split_sample"
            text = f"has {again} already" if again else "began, and other samples are between"
            sample.fail(outcome, f"key {sample.key!r}: row {first} {text}")
        else:
            self._held += len(sample.key) + KEY_OVERHEAD
        if self._held > MAX_KEY_BYTES:
            raise SourceError(f"{self._shard.url}: row {sample.row:,}: too many samples in one tar; split it")
        self._seen[sample.key] = (first, before | mine)
        return sample
