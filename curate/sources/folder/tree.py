"""What lies in a folder of images, and which of it belongs to one shard.

A shard is up to `CHUNK` images of one sub-folder in the order of their names, or a file ``metadata.*`` with all
images in and below its folder. Its url is ``ROOT/./REST``: the dot stands between the folder that no path may
lead out of and the place below it, as in rsync.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.errors import SourceError, UsageError
from curate.hashing import digest
from curate.io import filesystem, paths
from curate.io.filesystem import Entry, StorageOptions
from curate.io.found import counting, hint, is_counted, passed_over, used
from curate.io.names import printable
from curate.sources.base import RULES, Shard
from curate.sources.folder.tables_beside import say_tables

__all__ = [
    "IMAGE_ENDS",
    "METADATA",
    "Content",
    "Place",
    "content",
    "find_shards",
    "fresh",
    "image_ends",
    "place_of",
    "roots",
]

IMAGE_ENDS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".jp2",
    ".ppm",
    ".pgm",
)
#: Further ones since rules 2 (`base.RULES`), HEIC and JPEG XL with or without a decoder for them.
LATER_ENDS = (
    ".jfif", ".jpe", ".heic", ".heif", ".hif", ".jxl", ".j2k", ".pbm", ".pnm", ".dib", ".ico", ".qoi",
)  # fmt: skip
CAPTION_ENDS = (".txt", ".caption", ".TXT", ".CAPTION")
#: Hugging Face's names of the file that describes images, and the format each is read as.
METADATA = {"metadata.csv": "csv", "metadata.jsonl": "jsonl", "metadata.parquet": "parquet"}
CHUNK = 10_000
#: Begins the last part of the place of a shard whose folder is no label.
UNLABELLED = "unlabelled-"
KEPT_CONTENTS = 4

#: {folder below the root: {name: entry}}, of the files in each folder.
Tree = Mapping[str, Mapping[str, Entry]]


@dataclass(frozen=True)
class Place:
    """Where a shard is.

    root : the folder no path may lead out of. rest : where it is below. prefix : what the names of shards and
    images have before it (several roots or sources). rules : which files are its images (`base.RULES`).
    """

    root: str
    rest: str
    prefix: str
    rules: int

    @property
    def folder(self) -> str:
        """The folder of the shard below the root, empty or ending in a slash."""
        return "".join(self.rest.rpartition("/")[:2])

    @property
    def inside_root(self) -> str:
        """What `references.follow` takes as the shard: a name in the root, below which paths are looked for."""
        return f"{self.root}/shard"

    @property
    def labelled(self) -> bool:
        """Return True if the folder right above an image is its label."""
        return not self.rest.rpartition("/")[2].startswith(UNLABELLED)


@dataclass(frozen=True)
class Content:
    """The files of one shard, with paths below the root.

    images : in order of path. captions : {image: its side file}. size : bytes of them all. metadata : path of the
    file that describes the images, if there is one. version : a hash of names, sizes and times of all this.
    """

    images: Sequence[str]
    captions: Mapping[str, str]
    size: int
    version: str
    metadata: str | None = None
    entries: Mapping[str, Entry] = field(default_factory=dict)


_CONTENTS: OrderedDict[tuple[str, str], Content] = OrderedDict()


def place_of(shard: Shard) -> Place:
    """Return where a shard is, from its url and name."""
    root, _, rest = shard.url.rpartition("/./")
    return Place(root, rest, shard.name.removesuffix(printable(rest)), shard.rules)


def roots(path: str | Sequence[str], options: StorageOptions) -> list[str]:
    """Return the folders that `path` names, in order; raises UsageError for one that is none."""
    found: list[str] = []
    for text in [path] if isinstance(path, str) else path:
        for pattern in (one for part in paths.split_pattern(text) for one in paths.expand_braces(part)):
            with filesystem.explained(pattern, options):
                fs, below = filesystem.filesystem(pattern, options)
                entries = filesystem.lookup(fs, [below])
                if not entries and filesystem.has_magic(below):
                    entries = filesystem.matching(fs, below)
                if not entries:
                    raise UsageError(f"{pattern}: no such folder")
                folders = sorted(one for one, entry in entries.items() if entry.is_folder)
                if not folders:
                    raise UsageError(
                        f"{pattern}: not a folder; images are read by folder, name {filesystem.parent(pattern) or '.'}"
                    )
                found += [filesystem.url_of(fs, one).rstrip("/") for one in folders]
    return list(dict.fromkeys(found))


def find_shards(root: str, options: StorageOptions, prefix: str, source: str) -> Iterator[Shard]:
    """Yield the shards of one root, whose names begin with `prefix`."""
    tree = _tree(root, "", options, RULES)
    _tell(root, tree, options)
    splits = _split_folders(tree)
    owners = _owners(tree)
    for folder in sorted(tree):
        top = folder.partition("/")[0]
        split = paths.split_of(f"{prefix}{top}/0" if top in splits else f"{prefix}0", f"{root}/0")
        if owners[folder] == folder:
            _check_splits(root, folder, splits)
            rests = [folder + _metadata(root, folder, tree[folder])]
        elif owners[folder] is None:
            start = "" if folder and folder not in {f"{one}/" for one in splits} else UNLABELLED
            n_chunks = -(-len(_images(tree[folder], RULES)) // CHUNK)
            rests = [f"{folder}{start}{number:05d}" for number in range(n_chunks)]
        else:
            continue
        for rest in rests:
            held = _content(Place(root, rest, prefix, RULES), tree)
            yield Shard(
                prefix + printable(rest),
                f"{root}/./{rest}",
                split,
                held.size,
                held.version,
                source,
                options or {},
                "folder",
                rules=RULES,
            )


def image_ends(rules: int) -> tuple[str, ...]:
    """Return the ends of names of images, in lower case."""
    return IMAGE_ENDS if rules < 2 else (*IMAGE_ENDS, *LATER_ENDS)


def _tell(root: str, tree: Tree, options: StorageOptions) -> None:
    """Say which files are used and which are passed over, and how to have tables beside images read."""
    if not is_counted():
        return
    sides = []
    for folder, names in tree.items():
        stems = {name[: name.rindex(".")]: name for name in _images(names, RULES)}
        for name in sorted(names):
            stem, dot, end = name.rpartition(".")
            image = _is_image(name, RULES)
            if stem in stems:
                sides.append(f"{folder}{name}")
            if image or name in METADATA or (stem in stems and f".{end}" in CAPTION_ENDS):
                used([name])
            elif stem in stems and end.lower() in ("json", "xml", "yaml"):
                passed_over(
                    name, "beside an image; annotations are read from metadata.jsonl, .csv or .parquet"
                )
            elif dot and f".{end.lower()}" in CAPTION_ENDS:
                passed_over(name, "beside no image")
            else:
                passed_over(name, "no image")
    for line in say_tables(root, tree, sides, options):
        hint(line)


def content(shard: Shard) -> Content:
    """Return the files of a shard; raises SourceError if they are not those it was found with."""
    key = (shard.url, shard.version)
    if key not in _CONTENTS:
        _CONTENTS[key] = fresh(shard)
        while len(_CONTENTS) > KEPT_CONTENTS:
            _CONTENTS.popitem(last=False)
    return _CONTENTS[key]


def fresh(shard: Shard) -> Content:
    """Return the files of a shard as they are now; raises SourceError if that is not as they were."""
    place = place_of(shard)
    deep = place.rest.rpartition("/")[2] in METADATA
    with counting():  # it was counted when it was found
        tree = _tree(place.root, place.folder, shard.storage_options, place.rules, deep=deep)
    found = _content(place, tree) if place.folder in tree else None
    if found is None or found.version != shard.version:
        raise SourceError(f"{shard.url}: files in this folder changed since it was read; run again")
    return found


def _content(place: Place, tree: Tree) -> Content:
    """Return what belongs to the shard at `place`."""
    name = place.rest.rpartition("/")[2]
    metadata = place.rest if name in METADATA else None
    if metadata is not None:
        owners = _owners(tree, place.folder)
        folders = [folder for folder in sorted(tree) if owners[folder] == place.folder]
        images = [folder + one for folder in folders for one in _images(tree[folder], place.rules)]
    else:
        folders, number = [place.folder], int(name.removeprefix(UNLABELLED))
        images = [place.folder + one for one in _images(tree[place.folder], place.rules)]
        images = images[number * CHUNK : (number + 1) * CHUNK]
    entries = {folder + one: entry for folder in folders for one, entry in tree[folder].items()}
    captions = {image: side for image in images for side in _sides(image) if side in entries}
    wanted = [*images, *captions.values(), *([metadata] if metadata else [])]
    version = digest(*(part for path in wanted for part in (_named(path), entries[path].version)))
    size = sum(entries[path].size for path in wanted)
    return Content(images, captions, size, version, metadata, entries if metadata else {})


def _sides(image: str) -> list[str]:
    """Return where the caption of an image may be, the first choice last."""
    stem = image[: image.rindex(".")]
    return [stem + end for end in reversed(CAPTION_ENDS)]


def _named(path: str) -> bytes:
    return path.encode("utf-8", "surrogatepass")


def _is_image(name: str, rules: int) -> bool:
    return name.lower().endswith(image_ends(rules))


def _images(names: Iterable[str], rules: int) -> list[str]:
    """Return the names of images in order."""
    return sorted(name for name in names if _is_image(name, rules))


def _tree(
    root: str, folder: str, options: StorageOptions, rules: int, *, deep: bool = True
) -> dict[str, dict[str, Entry]]:
    """Return the files in a folder below `root`, with deep also those below it, by folder.

    A folder that is called like an image counts as a file: it is a row that cannot be read.
    """
    found: dict[str, dict[str, Entry]] = {}
    seen: set[Path] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        if here == f"{filesystem.LOST}/":
            passed_over(f"{root}/{here}", "of the file system")
            continue
        with filesystem.explained(f"{root}/{here}", options):
            fs, path = filesystem.filesystem(f"{root}/{here}", options)
            if filesystem.is_local(fs):
                if (real := Path(path).resolve()) in seen:
                    continue  # a link back to a folder above
                seen.add(real)
            entries = filesystem.listing(fs, path.rstrip("/"))
        looked_into = "recipe.yaml" in entries or here.endswith("store/")
        if here != folder and looked_into and filesystem.is_run_folder(fs, path.rstrip("/")):
            passed_over(f"{root}/{here}", filesystem.A_RUN)
            continue
        below = {name for name, entry in entries.items() if entry.is_folder and not _is_image(name, rules)}
        found[here] = {name: entry for name, entry in entries.items() if name not in below}
        if deep:
            waiting += [f"{here}{name}/" for name in sorted(below, reverse=True)]
    return found


def _owners(tree: Tree, top: str = "") -> dict[str, str | None]:
    """Return for each folder the nearest folder with a metadata file at or above it (and at or below `top`)."""
    owners: dict[str, str | None] = {}
    for folder in sorted(tree):
        above = "".join(folder.rstrip("/").rpartition("/")[:2])
        inherited = owners.get(above) if folder != top else None
        owners[folder] = folder if any(name in METADATA for name in tree[folder]) else inherited
    return owners


def _metadata(root: str, folder: str, names: Mapping[str, Entry]) -> str:
    found = [name for name in METADATA if name in names]
    if len(found) > 1:
        raise SourceError(f"{root}/{folder}: holds {' and '.join(found)}; keep one of them")
    return found[0]


def _split_folders(tree: Tree) -> set[str]:
    """Return the top folders that are splits: named so, and with no class beside them that is not.

    One that has folders of its own is a split whatever lies beside it; a class called `train` among others is none.
    """
    tops = {folder.partition("/")[0] for folder in tree if folder}
    named = {top for top in tops if top.lower() in paths.SPLITS}
    if named == tops:
        return named
    return {top for top in named if any(f.startswith(f"{top}/") and f != f"{top}/" for f in tree)}


def _check_splits(root: str, folder: str, splits: set[str]) -> None:
    if folder == "" and splits:
        raise UsageError(
            f"{root}: its metadata file stands above the split folders {', '.join(sorted(splits))}; put one into "
            "each of them, or read them as sources of their own"
        )
