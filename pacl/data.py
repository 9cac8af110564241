"""What a profile reads: images with captions, images with masks, images with labels; prepared once, the same form for
every source (paper, section 4).
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IGNORE = 255  # the label of pixels that no class is asked for


class Images:
    """A sequence of pictures: rows of a uint8 array [M, H, W, 3] or [M, H, W], or paths of files."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image.Image:
        item = self.source[index]
        return Image.fromarray(np.asarray(item)) if isinstance(item, np.ndarray) else open_image(item)


class Masks(Images):
    """A sequence of label maps, each uint8 [H, W], read as they were written: a palette image gives its indices."""

    def __getitem__(self, index: int) -> np.ndarray:
        item = self.source[index]
        return np.asarray(item if isinstance(item, np.ndarray) else open_image(item, mask=True))


def open_image(path: str | Path, *, mask: bool = False) -> Image.Image:
    """An image file as RGB, turned upright by its EXIF tag; with `mask`, as the integers it holds. Raises ValueError
    for a torn or foreign file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image if mask else ImageOps.exif_transpose(image).convert("RGB")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: check the path, or run the stage that writes it.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} can't be read as an image ({error}): replace or remove it.") from None


def write_json(path: Path, content) -> None:
    """Writes JSON, floats rounded to six decimals, so that equal results are equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rounded(content, digits: int = 6):
    if isinstance(content, dict):
        return {key: rounded(value, digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value, digits) for value in content]
    return round(content, digits) if isinstance(content, float) else content


def read_json(path: Path):
    """A JSON file that an earlier stage wrote. Raises FileNotFoundError naming the file and the remedy."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None


def store(folder: Path, name: str, source):
    """What a prepared file says of its pictures: an array is written beside it and named, a list of paths is kept as
    it is.
    """
    if not isinstance(source, np.ndarray):
        return [str(path) for path in source]
    np.save(folder / f"{name}.npy", source)
    return f"{name}.npy"


def source_of(folder: Path, stored):
    return np.load(folder / stored, mmap_mode="r") if isinstance(stored, str) else stored


def write_pairs(folder: Path, split: str, images, captions: list[list[str]]) -> None:
    """images: uint8 [M, H, W, 3] or M paths; captions: for each image the list of its captions."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{split}.json", {"images": store(folder, f"{split}_images", images), "captions": captions})


def read_pairs(folder: Path, split: str) -> tuple[Images, list[list[str]]]:
    content = read_json(folder / f"{split}.json")
    return Images(source_of(folder, content["images"])), content["captions"]


def write_scenes(folder: Path, split: str, images, masks, benchmarks: dict) -> None:
    """Images and masks that several benchmarks share.

    benchmarks: name -> {"classes": one string a class with its phrases comma-separated, "table": 256 integers from a
    mask's values to class indices}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "images": store(folder, f"{split}_scenes", images),
        "masks": store(folder, f"{split}_masks", masks),
        "benchmarks": benchmarks,
    }
    write_json(folder / f"{split}_scenes.json", content)


def read_scenes(folder: Path, split: str) -> tuple[Images, Masks, dict]:
    content = read_json(folder / f"{split}_scenes.json")
    return (
        Images(source_of(folder, content["images"])),
        Masks(source_of(folder, content["masks"])),
        content["benchmarks"],
    )


def target_of(mask: np.ndarray, table: list[int]) -> np.ndarray:
    """A mask's values as one benchmark's class indices, uint8 [H, W]; IGNORE where it has no class. Raises ValueError
    for a value the table lacks.
    """
    target = np.asarray([*table, -1]).take(mask, mode="clip")  # a value beyond the table gets the -1
    if (target < 0).any():
        raise ValueError(
            f"a mask holds the value {int(mask[target < 0][0])}, which is no class of its benchmark: "
            "check that mask and class list belong together."
        )
    return target.astype(np.uint8)


def write_labelled(folder: Path, split: str, set_name: str, images, labels: list[int], classes: list[str]) -> None:
    """A classification set."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": store(folder, f"{split}_{set_name}", images), "labels": labels, "classes": classes}
    write_json(folder / f"{split}_{set_name}.json", content)


def read_labelled(folder: Path, split: str, set_name: str) -> tuple[Images, np.ndarray, list[str]]:
    content = read_json(folder / f"{split}_{set_name}.json")
    return Images(source_of(folder, content["images"])), np.array(content["labels"]), content["classes"]
