"""White bars that img2dataset puts around photos by default, so that they become square."""

from pathlib import Path

import numpy as np

from pacl.data.images import open_image

LOOKED_AT = 100
NOTED_FROM = 0.1  # a tenth; photos of things on white paper look the same


def note(images: list[Path]) -> str:
    """A sentence on the bars among the first of these images; "" where few have any."""
    images = images[:LOOKED_AT]
    count = sum(has_bars(np.array(open_image(path).convert("L"))) for path in images)
    if count < NOTED_FROM * len(images) or not count:
        return ""
    return (
        f"{count} of the first {len(images)} images of the shards have white bars, as img2dataset adds by default: "
        "download them with --resize_mode keep_ratio (docs/data.md)."
    )


def has_bars(image: np.ndarray) -> bool:
    """Whether a square grey image [H, W] is white along two opposite sides, but not along the others."""
    if image.shape[0] != image.shape[1]:
        return False
    above, left = ((side[[0, 1, -2, -1]] > 250).all() for side in (image, image.T))
    return bool(above != left)
