"""Hand-made folders in official layouts, for several test modules."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, value=0, size=(6, 4), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path, **options)


def write_mask(path: Path, values, palette=False):
    """A label map of 4 x 6 pixels: one value, or an array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.broadcast_to(np.asarray(values, np.uint8), (4, 6)).copy())
    if palette:
        mask.putpalette([7 * k % 256 for k in range(768)])
    mask.save(path)


def write_flickr8k(folder: Path, names=("a", "b", "c", "d")):
    """Kaggle's layout; the first caption of each has commas, the second quotes."""
    lines = ["image,caption"]
    for name in names:
        write_image(folder / "Images" / f"{name}.jpg")
        lines += [f'{name}.jpg,"One {name} , two , three ."', f'{name}.jpg,"A sign says ""{name}"" ."']
        lines += [f"{name}.jpg,caption {i} of {name} ." for i in (3, 4, 5)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_voc(folder: Path, **splits):
    for split, names in splits.items():
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for i, name in enumerate(names):
            write_image(folder / "JPEGImages" / f"{name}.jpg")
            write_mask(folder / "SegmentationClass" / f"{name}.png", i % 21, palette=True)
    return folder


def write_own(folder: Path, names=("x", "y")):
    """A folder of images, masks and three classes, of which the last never occurs."""
    for i, name in enumerate(names):
        write_image(folder / "images" / f"{name}.jpg")
        write_mask(folder / "masks" / f"{name}.png", [[i] * 3 + [255] * 3] * 4)
    (folder / "classes.txt").write_text("sea, ocean\nsky\nsand\n\n")
    return folder
