"""data.images."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SCALED = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of two and four bits with


NO_RANGE = ("I", "F")  # modes of Pillow's whose white is no fixed number


class Images:
    """A sequence of pictures: rows of a uint8 array [M, H, W, 3] or [M, H, W], paths of files, or a sequence that gives
    pictures itself.

    part: the numbers of those that are meant, all if not given.
    """

    def __init__(self, source, part: range | None = None):
        self.source, self.part = source, range(len(source)) if part is None else part

    def __len__(self) -> int:
        return len(self.part)

    def take(self, part: range) -> "Images":
        """A part of them, read when asked for; what lies beyond the end is left out."""
        return type(self)(self.source, self.part[part.start : part.stop])

    some = take  # until all callers have moved

    def __getitem__(self, index: int) -> Image.Image:
        item = self.source[self.part[index]]
        if isinstance(item, Image.Image):
            return as_rgb(item, f"Picture {index}")
        return Image.fromarray(np.asarray(item)) if isinstance(item, np.ndarray) else open_image(item)


class Masks(Images):
    """A sequence of label maps, each uint8 [H, W], read as they were written: a palette image gives its indices."""

    def __getitem__(self, index: int) -> np.ndarray:
        item = self.source[self.part[index]]
        return np.asarray(item if isinstance(item, np.ndarray) else open_image(item, mask=True))


def open_image(path: str | Path, *, mask: bool = False) -> Image.Image:
    """An image file as RGB, turned upright by its EXIF tag; with `mask`, as the integers it holds. Raises ValueError
    for a torn or foreign file, for a picture in numbers without a range, and for a mask that holds colours.
    """
    try:
        if mask:
            with Image.open(path) as image:
                image.verify()  # a PNG's checksums, which load() doesn't look at: a flipped bit would be another label
        with Image.open(path) as image:
            scale = SCALED.get(str(image.tile[0][3]), 1) if mask and image.tile else 1
            image.load()
            if not mask and image.mode not in NO_RANGE:
                return as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: check the path, or run the stage that writes it.") from None
    except Exception as error:  # Pillow's decoders raise nearly every kind for a damaged file
        raise ValueError(f"{path} can't be read as an image ({error}): replace or remove it.") from None
    if not mask:
        refuse_no_range(image, path)
    if len(image.getbands()) > 1:
        raise ValueError(
            f"{path} holds colours ({image.mode}), not one label a pixel: save it with a palette or as grey."
        )
    return image.point(lambda value: value // scale) if scale > 1 else image


def as_rgb(image: Image.Image, name: str | Path = "The picture") -> Image.Image:
    """A picture as RGB, 16 bits a pixel scaled to 8. Raises ValueError for numbers without a range, naming the picture.

    Pillow's own conversion would clip 16 bits: all but the darkest pixels would be white.
    """
    refuse_no_range(image, name)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    return image.convert("RGB")


def refuse_no_range(image: Image.Image, name: str | Path) -> None:
    if image.mode in NO_RANGE:
        raise ValueError(
            f"{name} holds numbers of no known range (mode {image.mode}): save it as grey of 8 or 16 bits or as RGB."
        )


class TorchvisionImages:
    """Some rows of one of torchvision's data sets, so that none of its files is copied."""

    def __init__(self, torchvision: str, root: str, options: dict, rows: list[int]):
        from torchvision import datasets  # slow to import, and most profiles have no such set

        self.dataset, self.rows = getattr(datasets, torchvision)(root, **options), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        return self.dataset[self.rows[index]][0]
