"""What makes the data sets of `made`, by name, and the images that several of them write."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.producers import truth


@dataclass(frozen=True)
class Producer:
    """What makes one data set: a function of the folder to fill, the libraries it uses, and where they are."""

    make: Callable[[Path], None]
    libraries: tuple[str, ...]
    environment: str

    @property
    def what(self) -> str:
        """The first line of its docstring."""
        return (self.make.__doc__ or "").splitlines()[0]


PRODUCERS: dict[str, Producer] = {}


def producer(*libraries: str, environment: str = "tests"):
    """Register a function under its name."""

    def register(make):
        PRODUCERS[make.__name__] = Producer(make, libraries, environment)
        return make

    return register


def write_images(folder: Path, name: Callable[[int], str] = "{:04d}.png".format) -> list[str]:
    """Write the images that are there; return the names of all, the missing one's too."""
    for number, data in enumerate(truth.images()):
        if data is not None:
            path = folder / name(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return [name(number) for number in range(truth.N)]
