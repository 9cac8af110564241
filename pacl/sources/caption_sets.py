"""Captioned images to train on, in their official layouts (paper, section 4)."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pacl.data.images import pictures_in
from pacl.sources.layouts import data_set, parts_of, shown, text_of

CAPTIONS_AN_IMAGE = 5
HEADERS = (["image", "caption"], ["image_name", "comment_number", "comment"])  # of captions.txt
FLICKR8K, FLICKR30K, COCO = map(data_set, ("flickr8k", "flickr30k", "coco"))
OWN = {
    "name": "your own captions",
    "folder": "captions",
    "sizes": {},
    "parts": {"captions": ("captions.csv",), "photos": ("images",)},
    "get": "write a line image,caption and then a line for each caption, the image by its path in {folder}/images",
    "terms": "your own",
}
CAPTIONED = {"flickr8k": FLICKR8K, "flickr30k": FLICKR30K, "coco": COCO, "own": OWN}


def captioned(folder: str | Path, dataset: dict) -> tuple[list[Path], list[list[str]], str]:
    """The paths of all images found, in the data set's order, each one's captions (five of Flickr8k and Flickr30k, five
    to seven of COCO, any number of a user's own), and a sentence on a user's images that are left out, else "".

    Reads Kaggle's captions.txt, the original Flickr8k.token.txt or results_20130124.token, COCO's JSON, and a CSV with
    the columns image and caption. Raises FileNotFoundError if a part is missing, ValueError for a corrupt caption file.
    """
    paths = parts_of(folder, dataset)
    captions: dict[str, list[str]] = {}
    for name, caption in rows_of(paths["captions"]):
        captions.setdefault(name, []).append(caption.strip())
    pictures, left_out = pictures_in(paths["photos"])
    files = [path.relative_to(paths["photos"]).as_posix() for path in pictures]
    present = set(files) & captions.keys()
    if not present:
        raise FileNotFoundError(
            f"{paths['photos']} has no image that {paths['captions']} names; the images are {shown(files)}, the names "
            f"{shown([*captions])}: write each image's path in that folder, or unpack both again."
        )
    if dataset is OWN:
        found, names, note = own_captions(paths, captions, present)
        silent = f"{len(files) - len(present)} images have no line there." if len(files) > len(present) else ""
        return found, names, " ".join(filter(None, (note, silent, left_out)))
    for name in present:
        few, many = len(captions[name]) < CAPTIONS_AN_IMAGE, len(captions[name]) > CAPTIONS_AN_IMAGE
        if few or not all(captions[name]) or (many and dataset is not COCO):
            raise ValueError(f"{paths['captions']} lacks the five captions of {name}: download it again.")
    names = [name for name in captions if name in present]
    return [paths["photos"] / name for name in names], [captions[name] for name in names], ""


def own_captions(paths: dict[str, Path], captions: dict[str, list[str]], present: set[str]) -> tuple:
    """What `captioned` returns of a user's own captions, without images that are missing or have no caption."""
    found = {name: [text for text in texts if text] for name, texts in captions.items() if name in present}
    found = {name: texts for name, texts in found.items() if texts}
    if not found:
        raise ValueError(f"{paths['captions']} has no caption of an image in {paths['photos']}: write some.")
    without = [name for name in captions if name not in found]
    note = f"{len(without)} of {len(captions)} images of {paths['captions']} are missing or have no caption, the first "
    return [paths["photos"] / name for name in found], [*found.values()], note + f"{without[0]}." if without else ""


def rows_of(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".json":
        return json_rows(path)
    return csv_rows(path) if path.name in ("captions.txt", "captions.csv") else token_rows(path)


def csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of Kaggle's files, which quote captions that have commas; a caption without quotes keeps its
    commas, too. One row of Flickr30k's has its caption in the column of the number, after the number.
    """
    try:
        rows = list(csv.reader(io.StringIO(text_of(path), newline="")))
    except csv.Error as error:
        raise ValueError(f"{path} is corrupt ({error}): download it again.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header not in HEADERS:
        raise ValueError(f"{path} must begin with the line image,caption: correct it, or download it again.")
    for row in filter(None, rows[1:]):
        caption = ",".join(row[len(header) - 1 :])
        yield row[0], caption if caption.strip(" ,") else re.sub(r"^\s*\d+\s+", "", row[1] if len(row) > 2 else "")


def token_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of the original files, whose lines are image#number, a tab, the caption."""
    for line in text_of(path).split("\n"):  # splitlines would also split at rarer marks, which captions hold
        key, _, caption = line.partition("\t")
        yield key.rpartition("#")[0], caption


def json_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of COCO's annotations, sorted by image and caption id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        rows = sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"]))
        captions = [" ".join(row["caption"].split()) for row in rows]
        "".join(captions).encode()  # raises ValueError for half a surrogate pair, which only JSON can hold
        return iter([(name_of[row["image_id"]], caption) for row, caption in zip(rows, captions, strict=True)])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is not a complete JSON file of COCO captions: unpack it again.") from None
