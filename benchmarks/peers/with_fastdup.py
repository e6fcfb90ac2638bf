"""fastdup: its own embedding of the images of a folder, and its connected components above a similarity."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def judged(folder: str, similarity: float) -> Iterator[None]:
    """Remove all but the first of each component; see `truth.judge`."""
    os.environ["SENTRY_OPT_OUT"] = "1"
    import fastdup
    from truth import judge

    yield
    with tempfile.TemporaryDirectory() as work:
        found = fastdup.create(work_dir=work, input_dir=folder)
        found.run(threshold=min(similarity, 0.9), ccthreshold=similarity, verbose=False)
        components = found.connected_components()[0].sort_values("filename")
    removed = components[components.duplicated("component_id")]["filename"]
    return judge(folder, [Path(name).name for name in removed])
