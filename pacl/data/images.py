"""Pictures and masks, from arrays or files, decoded when a stage asks for them."""

from collections import Counter
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pacl.runtime.files import read_array

FOREIGN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # formats that Pillow recognises and leaves to other programs
SCALED = {"L;2": 85, "L;4": 17}  # Pillow's factors for grey values of two and four bits
NO_RANGE = ("I", "F")  # Pillow's modes in which white has no fixed value


@cache
def endings() -> frozenset[str]:
    """The endings of the picture files that Pillow opens by itself, in small letters, with the dot."""
    return frozenset(
        ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in FOREIGN
    )


def pictures_in(folder: Path, wanted: Container[str] = (), *, recursive: bool = True) -> tuple[list[Path], str]:
    """The picture files in a folder, sorted, and a sentence on what is left out, "" if nothing is: files of other
    endings than the wanted (by default, all that Pillow opens) and, unless `recursive`, pictures in folders below.
    Ignores hidden files and folders.
    """
    wanted = wanted or endings()
    files = list(files_in(folder))
    pictures = [path for path in files if path.suffix.lower() in wanted]
    taken = [path for path in pictures if recursive or path.parent == folder]
    others = Counter(
        path.suffix.lower() or "without an ending"
        for path in files
        if path.suffix.lower() not in wanted and (recursive or path.parent == folder)
    )
    parts = [f"{count} x {ending}" for ending, count in sorted(others.items())]
    if below := len(pictures) - len(taken):
        parts.append(f"{below} x pictures in folders below")
    return taken, f"Left out of {folder}: {', '.join(parts)}." if parts else ""


def files_in(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files in a folder and in those below, sorted, without hidden ones; follows links, but not in circles.

    above: the real folders that it lies in.
    """
    above = (folder.resolve(), *above)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:
            yield from files_in(path, above)


class Images:
    """A sequence of RGB pictures.

    source: a uint8 array [M, H, W, 3] or [M, H, W], paths of files, or a sequence of pictures. part: which of them, by
    default all.
    """

    def __init__(self, source, part: range | None = None):
        self.source, self.part = source, range(len(source)) if part is None else part

    def __len__(self) -> int:
        return len(self.part)

    def take(self, part: range) -> "Images":
        """Some of them, still read on demand; ignores what lies beyond the end."""
        return type(self)(self.source, self.part[part.start : part.stop])

    def __getitem__(self, index: int) -> Image.Image:
        item = self.source[self.part[index]]
        if isinstance(item, Image.Image):
            return as_rgb(item, f"Picture {index}")
        return Image.fromarray(np.asarray(item)) if isinstance(item, np.ndarray) else open_image(item)


class Masks(Images):
    """A sequence of label maps, each uint8 [H, W], with the values as stored: a palette image gives its indices."""

    def __getitem__(self, index: int) -> np.ndarray:
        item = self.source[self.part[index]]
        return item if isinstance(item, np.ndarray) else open_labels(item)


def open_labels(path: str | Path) -> np.ndarray:
    """A label map [H, W] of an image file or of NumPy's .npy. Raises as `open_image` does, also for an array that is
    not one integer per pixel.
    """
    if Path(path).suffix.lower() == ".npy":
        labels = read_array(path)
        if labels.ndim != 2 or labels.dtype.kind not in "bui":
            raise ValueError(f"{path} holds {labels.dtype} {list(labels.shape)}: save one integer per pixel, [H, W].")
    else:
        labels = np.asarray(open_image(path, mask=True))
    return labels.astype(np.uint8) if labels.dtype == bool else labels


def open_image(path: str | Path, *, mask: bool = False) -> Image.Image:
    """An image file as RGB, upright by its EXIF tag; with `mask`, the integers that it holds. Raises ValueError for a
    corrupt or foreign file, for a picture whose numbers have no known range, and for a mask that holds colours.
    """
    try:
        if mask:
            with Image.open(path) as image:
                image.verify()  # a PNG's checksums, which load() ignores: a flipped bit would be another label
        with Image.open(path) as image:
            scale = SCALED.get(str(image.tile[0][3]), 1) if mask and image.tile else 1
            image.load()
            if not mask and image.mode not in NO_RANGE:
                return as_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: check the path, or run the stage that writes it.") from None
    except Exception as error:  # Pillow's decoders raise nearly any kind for a damaged file
        raise ValueError(unreadable(path, error)) from None
    if not mask:
        refuse_no_range(image, path)
    if image.mode == "F":
        raise ValueError(f"{path} holds decimal numbers, not one label per pixel: save it as greyscale.")
    if len(image.getbands()) > 1:
        raise ValueError(
            f"{path} holds colours ({image.mode}), not one label per pixel: save it with a palette or as greyscale."
        )
    return image.point(lambda value: value // scale) if scale > 1 else image


def unreadable(path: str | Path, error: Exception) -> str:
    """Why Pillow can't open a file, and what to do."""
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * Image.MAX_IMAGE_PIXELS / 1e6  # Pillow itself only warns of half as many
        return f"{path} has more than {limit:.3g} million pixels, the most that are read: scale it down or remove it."
    return f"{path} can't be read as an image ({error}): replace or remove it."


def as_rgb(image: Image.Image, name: str | Path = "The picture") -> Image.Image:
    """A picture as RGB, transparent ones on white, so that colours nobody sees don't count. Scales 16 bits to 8, where
    Pillow's own conversion would clip all but the darkest pixels to white. Raises ValueError, naming the picture, for
    numbers without a known range.
    """
    refuse_no_range(image, name)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def refuse_no_range(image: Image.Image, name: str | Path) -> None:
    if image.mode in NO_RANGE:
        raise ValueError(
            f"{name} holds numbers of unknown range (mode {image.mode}): save it as 8- or 16-bit greyscale or as RGB."
        )


class TorchvisionImages:
    """Some rows of a torchvision data set, read in place."""

    def __init__(self, torchvision: str, root: str, options: dict, rows: list[int]):
        from torchvision import datasets  # slow to import and rarely needed

        self.dataset, self.rows = getattr(datasets, torchvision)(root, **options), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        return self.dataset[self.rows[index]][0]
