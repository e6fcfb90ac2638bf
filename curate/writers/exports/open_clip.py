"""Write the list that open_clip trains on with ``--dataset-type csv``: the file of each image, and its caption.

Separator and header are the defaults of `open_clip_train.main`: tabs, `filepath` and `title`.
"""

import csv
from collections.abc import Iterable
from pathlib import Path

from curate.io.storage import atomic
from curate.writers.exports.image_files import ImageFile

__all__ = ["COLUMNS", "write_open_clip"]

COLUMNS = ("filepath", "title")
SEPARATOR = "\t"
#: Captions that pandas, with which open_clip reads the list, takes for nothing even in quotes: it would train on "nan".
NOTHING_TO_PANDAS = frozenset(
    ("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
     "NaN", "None", "n/a", "nan", "null")
)  # fmt: skip


def write_open_clip(path: Path, samples: Iterable[ImageFile]) -> tuple[int, int]:
    """Write a line for each sample; return how many, and how many are left out because they have no caption.

    open_clip would train on the word nan where there is none. Words that pandas takes for nothing get a space behind,
    which tokenizers take away again.
    """
    count = without = 0
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, delimiter=SEPARATOR, lineterminator="\n")
        lines.writerow(COLUMNS)
        for one in samples:
            if (one.caption or "").strip():
                behind = " " if one.caption in NOTHING_TO_PANDAS else ""
                lines.writerow([str(one.path), f"{one.caption}{behind}"])
                count += 1
            else:
                without += 1
    return count, without
