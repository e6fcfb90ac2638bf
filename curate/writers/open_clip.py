"""Write the list that open_clip trains on with ``--dataset-type csv``: the file of each image, and its caption.

Separator and header are the defaults of `open_clip_train.main`: tabs, `filepath` and `title`.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from curate.io.storage import atomic
from curate.writers.image_files import ImageFile

__all__ = ["COLUMNS", "write_open_clip"]

COLUMNS = ("filepath", "title")
SEPARATOR = "\t"


def write_open_clip(path: Path, samples: Iterable[ImageFile]) -> tuple[int, int]:
    """Write a line for each sample; return how many, and how many are left out because they have no caption.

    open_clip would train on the word nan where there is none.
    """
    count = without = 0
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter=SEPARATOR, lineterminator="\n")
        lines.writerow(COLUMNS)
        for one in samples:
            if (one.caption or "").strip():
                lines.writerow([str(one.path), one.caption])
                count += 1
            else:
                without += 1
    return count, without
