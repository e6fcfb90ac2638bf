"""A small run with vectors, pictures, captions and labels, some of them hostile: what a report is made of."""

from io import BytesIO

import numpy as np
from builders import planted, recipe_values, write_shards
from PIL import Image

ROWS = 240
CAPTION = "<img src=x onerror=alert(1)>"
LABELS = ("</script><script>alert(2)</script>", "cat & <b>dog</b>")


def picture(number, size=(120, 60)):
    colour = tuple(int(c) for c in np.random.default_rng(number).integers(0, 256, 3))
    packed = BytesIO()
    Image.new("RGB", size, colour).save(packed, "PNG")
    return packed.getvalue()


def pictured(folder, **changes):
    """Write the shards; return the settings of a run on them."""
    images = [picture(i) for i in range(ROWS)]
    images[3], images[4] = b"no picture", None
    extra = {
        "image": images,
        "caption": [CAPTION if i % 3 == 0 else f"picture {i}" for i in range(ROWS)],
        "label": [LABELS[i % 2] for i in range(ROWS)],
    }
    glob = write_shards(folder / "in", planted(ROWS, near=12), extra=extra)
    heads = {"heads": {"kind": "linear", "seeds": 2, "epochs": 2, "folds": 2}}
    values = {
        "score": [heads],
        "dedup": {"epsilon": 0.01},
        "filter": ["el2n <= 1.35"],
        "weight": {"method": "concept"},
    }
    return recipe_values(glob, folder / "run", **{**values, **changes})
