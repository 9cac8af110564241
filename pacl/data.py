"""What a profile reads: images with captions, images with masks, images with labels; prepared once, the same form for
every source (paper, section 4).
"""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SCALED = {"L;2": 85, "L;4": 17}  # what Pillow multiplies grey values of two and four bits with
NO_RANGE = ("I", "F")  # modes of Pillow's whose white is no fixed number
IGNORE = 255  # the label of pixels that no class is asked for


class Images:
    """A sequence of pictures: rows of a uint8 array [M, H, W, 3] or [M, H, W], paths of files, or a sequence that gives
    pictures itself.

    part: the numbers of those that are meant, all if not given.
    """

    def __init__(self, source, part: range | None = None):
        self.source, self.part = source, range(len(source)) if part is None else part

    def __len__(self) -> int:
        return len(self.part)

    def some(self, part: range) -> "Images":
        """A part of them, read when asked for; what lies beyond the end is left out."""
        return type(self)(self.source, self.part[part.start : part.stop])

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


def write_json(path: Path, content) -> None:
    """Writes JSON, whole or not at all; floats are rounded to six decimals, so that equal results are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(rounded(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def rounded(content, digits: int = 6):
    if isinstance(content, dict):
        return {key: rounded(value, digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value, digits) for value in content]
    return round(content, digits) if isinstance(content, float) else content


def read_json(path: Path, *keys: str):
    """A JSON file that an earlier stage wrote, with these keys at its top. Raises FileNotFoundError, or ValueError for
    a torn one, naming the file and the remedy.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if keys and not (isinstance(content, dict) and content.keys() >= set(keys)):
            raise ValueError
        return content
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no whole JSON file: remove it and run the stage that writes it again.") from None


def store(folder: Path, name: str, source):
    """What a prepared file says of its pictures: an array is written beside it and named, a list of paths and what
    `TorchvisionImages` takes are kept as they are.
    """
    if isinstance(source, dict):
        return source
    if not isinstance(source, np.ndarray):
        return [str(path) for path in source]
    np.save(folder / f"{name}.npy", source)
    return f"{name}.npy"


def source_of(folder: Path, stored):
    if isinstance(stored, dict):
        return TorchvisionImages(**stored)
    return read_pictures(folder / stored) if isinstance(stored, str) else stored


def read_pictures(path: Path) -> np.ndarray:
    """The array that `store` wrote, memory-mapped. Raises FileNotFoundError, or ValueError for a torn one."""
    try:
        array = np.load(path, mmap_mode="r")
        if array.dtype != np.uint8 or array.ndim != 3 and (array.ndim != 4 or array.shape[-1] != 3):
            raise ValueError(f"{array.dtype} {list(array.shape)}")
        return array
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run the stage that writes it.") from None
    except Exception as error:  # NumPy's reader raises nearly every kind for a damaged header
        raise ValueError(
            f"{path} is no whole array of pictures ({error}): remove it and run the stage that writes it again."
        ) from None


class TorchvisionImages:
    """Some rows of one of torchvision's data sets, so that none of its files is copied."""

    def __init__(self, torchvision: str, root: str, options: dict, rows: list[int]):
        from torchvision import datasets  # slow to import, and most profiles have no such set

        self.dataset, self.rows = getattr(datasets, torchvision)(root, **options), rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Image.Image:
        return self.dataset[self.rows[index]][0]


def write_pairs(folder: Path, split: str, images, captions: list[list[str]]) -> None:
    """images: uint8 [M, H, W, 3] or M paths; captions: for each image the list of its captions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{split}.json", {"images": store(folder, f"{split}_images", images), "captions": captions})


def read_pairs(folder: Path, split: str) -> tuple[Images, list[list[str]]]:
    content = read_json(folder / f"{split}.json", "images", "captions")
    return Images(source_of(folder, content["images"])), content["captions"]


def write_scenes(folder: Path, split: str, images, masks, benchmarks: dict, image_set: str = "") -> None:
    """Images and masks that several benchmarks share; benchmarks of other images are another image set.

    benchmarks: name -> {"classes": one string a class with its phrases comma-separated, "table": 256 integers from a
    mask's values to class indices}, and what else is to be said of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(filter(None, (split, image_set)))
    content = {
        "images": store(folder, f"{name}_scenes", images),
        "masks": store(folder, f"{name}_masks", masks),
        "benchmarks": benchmarks,
    }
    write_json(folder / f"{name}_scenes.json", content)


def all_scenes(folder: Path, split: str, *, needed: bool = True) -> dict[str, tuple[Images, Masks, dict]]:
    """Every image set of a split, by name: images, masks, and its benchmarks as they were written.

    The mini world's only set has the name "". Raises FileNotFoundError where there is none, unless none is needed.
    """
    paths = sorted(folder.glob(f"{split}_*scenes.json"))
    if needed and not paths:
        raise FileNotFoundError(f"{folder} has no {split} scenes: run `dvc repro`, or the notebook before this one.")
    sets = {
        path.name.removeprefix(split).removesuffix("scenes.json").strip("_"): read_json(
            path, "images", "masks", "benchmarks"
        )
        for path in paths
    }
    return {
        name: (Images(source_of(folder, one["images"])), Masks(source_of(folder, one["masks"])), one["benchmarks"])
        for name, one in sets.items()
    }


def read_scenes(folder: Path, split: str, benchmark: str | None = None) -> tuple[Images, Masks, dict]:
    """The image set that has a benchmark, by default the only one. Raises ValueError where that is none or several."""
    sets = all_scenes(folder, split)
    found = [one for one in sets.values() if benchmark is None or benchmark in one[2]]
    if len(found) != 1:
        has = ", ".join(name for _, _, benchmarks in sets.values() for name in benchmarks)
        raise ValueError(f"{folder}: there is no one set of {split} scenes for {benchmark or 'all of'}: it has {has}.")
    return found[0]


def target_of(mask: np.ndarray, table: list[int]) -> np.ndarray:
    """A mask's values as one benchmark's class indices, uint8 [H, W]; IGNORE where it has no class. Raises ValueError
    for a value the table lacks.
    """
    beyond = np.where(np.asarray(mask) < 0, len(table), mask)  # so that a negative value is beyond the table, too
    target = np.asarray([*table, -1]).take(beyond, mode="clip")  # a value beyond the table gets the -1
    if (target < 0).any():
        raise ValueError(
            f"a mask holds the value {int(mask[target < 0][0])}, which is no class of its benchmark: "
            "check that mask and class list belong together."
        )
    return target.astype(np.uint8)


def write_labelled(folder: Path, split: str, set_name: str, images, labels: list[int], classes: list[str]) -> None:
    """A classification set. images: as `write_pairs` takes them, or what `TorchvisionImages` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": store(folder, f"{split}_{set_name}", images), "labels": labels, "classes": classes}
    write_json(folder / f"{split}_{set_name}.json", content)


def read_labelled(folder: Path, split: str, set_name: str) -> tuple[Images, np.ndarray, list[str]]:
    content = read_json(folder / f"{split}_{set_name}.json", "images", "labels", "classes")
    return Images(source_of(folder, content["images"])), np.array(content["labels"]), content["classes"]
