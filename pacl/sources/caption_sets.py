"""Reads captioned images in their official layouts (paper, section 4: captions to train on).

A reader returns (images, captions): paths in the data set's own order, and for each image the list of its captions.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from pacl.sources.layouts import parts_of, text_of

CAPTIONS_AN_IMAGE = 5
HEADERS = (["image", "caption"], ["image_name", "comment_number", "comment"])  # of captions.txt

FLICKR8K = {
    "name": "Flickr8k",
    "folder": "flickr8k",
    "sizes": {"all": 8091},
    "parts": {
        "captions": ("captions.txt", "Flickr8k.token.txt", "*/Flickr8k.token.txt"),
        "photos": ("Images", "Flicker8k_Dataset", "Flickr8k_Dataset"),
    },
    "get": "kaggle datasets download adityajn105/flickr8k --unzip -p {folder}",
    "terms": "non-commercial research; the photos' Flickr terms",
}
FLICKR30K = {
    "name": "Flickr30k",
    "folder": "flickr30k",
    "sizes": {"all": 31783},
    "parts": {
        "captions": ("captions.txt", "results_20130124.token", "*/results_20130124.token"),
        "photos": ("Images", "flickr30k_images", "flickr30k-images"),
    },
    "get": "kaggle datasets download adityajn105/flickr30k --unzip -p {folder}",
    "terms": "non-commercial research; the photos' Flickr terms",
}
COCO = {
    "name": "COCO captions",
    "folder": "coco",
    "sizes": {"all": 118287},
    "parts": {"captions": ("annotations/captions_train2017.json",), "photos": ("train2017", "images/train2017")},
    "get": "unpack train2017.zip of images.cocodataset.org/zips and annotations_trainval2017.zip of "
    "images.cocodataset.org/annotations in {folder}",
    "terms": "captions CC BY 4.0; the photos' Flickr terms",
}
CAPTIONED = {"flickr8k": FLICKR8K, "flickr30k": FLICKR30K, "coco": COCO}


def captioned(folder: str | Path, dataset: dict) -> tuple[list[Path], list[list[str]]]:
    """The images that are there, and all captions of each: five in Flickr8k and Flickr30k, five to seven in COCO.

    Reads Kaggle's captions.txt (header image,caption), the original Flickr8k.token.txt or results_20130124.token
    (image#number, a tab, the caption; the lemmas beside them are no captions) and COCO's JSON. Raises FileNotFoundError
    where a part is missing, ValueError for a torn caption file.
    """
    paths = parts_of(folder, dataset)
    captions: dict[str, list[str]] = {}
    for name, caption in rows_of(paths["captions"]):
        captions.setdefault(name, []).append(caption.strip())
    present = {path.name for path in paths["photos"].iterdir()} & captions.keys()
    if not present:
        raise FileNotFoundError(f"{paths['photos']} has no image that {paths['captions']} names: unpack both again.")
    for name in present:
        few, many = len(captions[name]) < CAPTIONS_AN_IMAGE, len(captions[name]) > CAPTIONS_AN_IMAGE
        if few or not all(captions[name]) or (many and dataset is not COCO):
            raise ValueError(f"{paths['captions']} hasn't five captions of {name}, as it should: download it again.")
    names = [name for name in captions if name in present]
    return [paths["photos"] / name for name in names], [captions[name] for name in names]


def rows_of(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of a caption file, by its suffix."""
    if path.suffix == ".json":
        return json_rows(path)
    return csv_rows(path) if path.name == "captions.txt" else token_rows(path)


def csv_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of Kaggle's files, which quote a caption with commas; one unquoted keeps its commas, too.
    Flickr30k's has a row whose caption stands in the column of its number, behind it.
    """
    try:
        rows = list(csv.reader(io.StringIO(text_of(path), newline="")))
    except csv.Error as error:
        raise ValueError(f"{path} is torn ({error}): download it again.") from None
    header = [name.strip() for name in rows[0]] if rows else []
    if header not in HEADERS:
        raise ValueError(f"{path} must begin with the line image,caption: download it again.")
    for row in filter(None, rows[1:]):
        caption = ",".join(row[len(header) - 1 :])
        yield row[0], caption if caption.strip(" ,") else re.sub(r"^\s*\d+\s+", "", row[1] if len(row) > 2 else "")


def token_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of the original file."""
    for line in text_of(path).split("\n"):  # splitlines would end a line at rarer marks, which captions hold
        key, _, caption = line.partition("\t")
        yield key.rpartition("#")[0], caption


def json_rows(path: Path) -> Iterator[tuple[str, str]]:
    """(image, caption) of COCO's annotations, sorted by image and caption id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        rows = sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"]))
        captions = [" ".join(row["caption"].split()) for row in rows]
        "".join(captions).encode()  # raises ValueError for half a character, which JSON can hold and no file can
        return iter([(name_of[row["image_id"]], caption) for row, caption in zip(rows, captions, strict=True)])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path} is no complete JSON of COCO captions: unpack it again.") from None
