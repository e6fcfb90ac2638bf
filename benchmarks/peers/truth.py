"""How what was removed compares with what is known (standard library alone: other environments import it)."""

import json
from collections.abc import Iterable
from pathlib import Path


def judge(folder: str, removed: Iterable[str]) -> dict[str, float]:
    """Return how many were dropped, the share of copies that are gone, and the share of dropped ones that are copies.

    Beside the folder lies `FOLDER.json`: file name -> the family of pictures that it belongs to. All but one of a
    family are copies.
    """
    family = json.loads(Path(f"{folder}.json").read_text())
    gone = set(removed)
    members: dict[str, list[str]] = {}
    for name, of in family.items():
        members.setdefault(of, []).append(name)
    copies = sum(len(names) - 1 for names in members.values())
    right = sum(min(len(gone.intersection(names)), len(names) - 1) for names in members.values())
    return {
        "dropped": len(gone),
        "recall": round(right / max(copies, 1), 4),
        "precision": round(right / max(len(gone), 1), 4),
    }
