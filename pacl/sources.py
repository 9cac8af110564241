"""Reads public data sets in their official layouts (paper, section 4: captions to train on, masks to measure with).

A reader of captioned images returns (images, captions), one of segmentation returns (images, masks, note): lists of
paths, in the data set's own order. A benchmark is a list of classes and a table from a mask's values to them.
"""

import csv
from pathlib import Path

from pacl.config import project_root
from pacl.data import IGNORE

NO_LABEL = -1  # in a table: a value that no mask of the benchmark holds
CAPTIONS_AN_IMAGE = 5

# parts: what must be there, each in one of several places. sizes: how many images the official split has.
FLICKR8K = {
    "name": "Flickr8k",
    "sizes": {"all": 8091},
    "parts": {
        "captions": ("captions.txt", "*.token.txt", "*/*.token.txt"),
        "photos": ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    },
    "get": "kaggle datasets download adityajn105/flickr8k --unzip -p {folder}",
    "terms": "non-commercial research; the photos' Flickr terms",
}
VOC = {
    "name": "PASCAL VOC 2012",
    "sizes": {"train": 1464, "val": 1449, "trainval": 2913},
    "parts": {
        "split": ("ImageSets/Segmentation/{split}.txt",),
        "photos": ("JPEGImages",),
        "masks": ("SegmentationClass",),
    },
    "get": "unpack VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC/voc2012 in {folder.parent.parent}",
    "terms": "research; the photos' Flickr terms",
}


def flickr8k(folder: str | Path) -> tuple[list[Path], list[list[str]]]:
    """The images that are there, and the five captions of each.

    Reads Kaggle's captions.txt (header image,caption) or the original *.token.txt (image#number, a tab, the caption).
    Raises FileNotFoundError where a part is missing, ValueError for a torn caption file.
    """
    paths = parts_of(folder, FLICKR8K)
    captions: dict[str, list[str]] = {}
    read = token_rows if paths["captions"].name.endswith(".token.txt") else csv_rows
    for name, caption in read(paths["captions"]):
        captions.setdefault(name, []).append(caption.strip())
    present = {path.name for path in paths["photos"].iterdir()} & captions.keys()
    if not present:
        raise FileNotFoundError(f"{paths['photos']} has no image that {paths['captions']} names: unpack both again.")
    odd = next((name for name in present if len(captions[name]) != CAPTIONS_AN_IMAGE or not all(captions[name])), None)
    if odd:
        raise ValueError(f"{paths['captions']} hasn't five captions of {odd}, as it should: download it again.")
    names = [name for name in captions if name in present]
    return [paths["photos"] / name for name in names], [captions[name] for name in names]


def csv_rows(path: Path):
    """(image, caption) of Kaggle's file, which quotes a caption with commas; one unquoted keeps its commas, too."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file)
        if [name.strip() for name in next(rows, [])] != ["image", "caption"]:
            raise ValueError(f"{path} must begin with the line image,caption: download it again.")
        yield from ((name, ",".join(caption)) for name, *caption in filter(None, rows))


def token_rows(path: Path):
    """(image, caption) of the original file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        key, _, caption = line.partition("\t")
        yield key.rpartition("#")[0], caption


def voc(folder: str | Path, split: str = "val") -> tuple[list[Path], list[Path], str]:
    """The images and masks of a split of PASCAL VOC 2012, and a sentence if that isn't the whole split, else "".

    folder: VOCdevkit/VOC2012. split: train, val or trainval. Listed images without a file or a mask are left out.
    Raises FileNotFoundError where a part, or every image, is missing, and ValueError for another split.
    """
    if split not in VOC["sizes"]:
        raise ValueError(f"{split!r} is no split of {VOC['name']} that has masks: use {', '.join(VOC['sizes'])}.")
    paths = parts_of(folder, VOC, split)
    names = paths["split"].read_text(encoding="utf-8").split()
    pairs = [(paths["photos"] / f"{name}.jpg", paths["masks"] / f"{name}.png") for name in names]
    found = [pair for pair in pairs if all(path.is_file() for path in pair)]
    if not found:
        raise FileNotFoundError(f"{folder} has neither photo nor mask of what {paths['split']} lists: unpack it again.")
    images, masks = map(list, zip(*found, strict=True))
    return images, masks, partial(VOC, len(found), split)


def partial(dataset: dict, found: int, split: str = "all") -> str:
    """A sentence if there are other than the official number of images, else ""."""
    official, name = dataset["sizes"][split], dataset["name"] if split == "all" else f"{dataset['name']} {split}"
    if found == official:
        return ""
    return f"{name}: {found:,} of {official:,} images found, so no result on them is comparable to a published number."


def parts_of(folder: str | Path, dataset: dict, split: str = "") -> dict[str, Path]:
    """Where each part of a data set lies. Raises FileNotFoundError, see `missing`."""
    check_present([(folder, dataset, split)])
    return {part: next(places(Path(folder), globs, split)) for part, globs in dataset["parts"].items()}


def places(folder: Path, globs: tuple[str, ...], split: str):
    return (path for glob in globs for path in sorted(folder.glob(glob.format(split=split))))


def check_present(wanted: list[tuple[str | Path, dict, str]]) -> None:
    """Raises one FileNotFoundError that lists, as a table, what is missing of all wanted (folder, data set, split)."""
    rows = [row for folder, dataset, split in wanted if (row := missing(Path(folder), dataset, split))]
    if rows:
        rows.insert(0, ("what", "where it is expected", "how to get it", "terms"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        raise FileNotFoundError("\n".join(["Data that can't come with this project is missing:", *lines]))


def missing(folder: Path, dataset: dict, split: str) -> tuple[str, str, str, str] | None:
    """A row of that table, None if nothing is missing."""
    parts = dataset["parts"].values()
    absent = [globs[0].format(split=split) for globs in parts if not any(places(folder, globs, split))]
    if not absent:
        return None
    return dataset["name"], f"{folder}: {', '.join(absent)}", dataset["get"].format(folder=folder), dataset["terms"]


def class_list(name: str) -> list[str]:
    """The classes in data/classes/NAME.txt, one a line, a class's synonyms separated by commas."""
    text = (project_root() / f"data/classes/{name}.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip()]


def value_table(classes: dict[int, int]) -> list[int]:
    """256 entries, a mask's value -> its class; 255 is void everywhere, and values not in `classes` are no labels."""
    return [classes.get(value, IGNORE if value == 255 else NO_LABEL) for value in range(256)]


def voc20() -> dict:
    """PASCAL VOC's twenty classes; background pixels are ignored."""
    table = value_table({0: IGNORE} | {value: value - 1 for value in range(1, 21)})
    return {"classes": class_list("voc20"), "table": table}


def voc21() -> dict:
    """PASCAL VOC's twenty classes after background, class 0."""
    return {"classes": class_list("voc21"), "table": value_table({value: value for value in range(21)})}
