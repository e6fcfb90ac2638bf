"""imagededup: perceptual hashes (PHash) of the images of a folder, and its own choice of what to remove."""

from collections.abc import Iterator


def remove(folder: str, distance: int) -> list[str]:
    """Return the names of the files that imagededup would remove."""
    _declare_operators()
    from imagededup.methods import PHash

    hashes = PHash(verbose=False)
    found = hashes.encode_images(image_dir=folder)
    removed: list[str] = hashes.find_duplicates_to_remove(encoding_map=found, max_distance_threshold=distance)
    return removed


def judged(folder: str, distance: int) -> Iterator[None]:
    """Measure it; see `truth.judge`."""
    from truth import judge

    yield
    return judge(folder, remove(folder, distance))


def _declare_operators() -> None:
    """Declare what torchvision misses beside a torch without CUDA: imagededup imports it, and uses none of it here."""
    import torch

    global _kept  # a Library takes its declarations back when it is collected
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        _kept = torch.library.Library("torchvision", "DEF")
        _kept.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
