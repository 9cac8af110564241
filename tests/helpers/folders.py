"""Hand-made folders in official layouts, for several test modules."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from helpers.imports import ROOT


def once(tmp_path_factory, name: str, write: Callable[[Path], object]) -> Path:
    """The path of that name that `write` makes, for all of pytest's workers; each test may only read it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = path.with_name(f"{name}.done")
    with FileLock(f"{path}.lock"):
        if not done.exists():
            write(path)
            done.touch()
    return path


def link_sources(project: Path) -> Path:
    """A project as cloned, without any result: links to params.yaml and to what data/ holds in the repository."""
    (project / "data").mkdir(parents=True)
    for path in (ROOT / "params.yaml", *(ROOT / "data").iterdir()):
        if path.name not in ("prepared", "features", "dense", "texts", "raw"):
            (project / path.relative_to(ROOT)).symlink_to(path)
    return project


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


def write_tiny_imagenet(folder: Path, photos=2):
    """Three classes of Tiny-ImageNet, each of one grey, and three validation photos, one of them missing."""
    wnids = ("n02085620", "n02124075", "n04118538")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in wnids))
    names = ("Chihuahua", "Egyptian cat", "rugby ball, oval ball")
    rows = [("n00001740", "entity"), *zip(wnids, names, strict=True)]
    (folder / "words.txt").write_text("".join(f"{wnid}\t{name}\n" for wnid, name in rows))
    for label, wnid in enumerate(wnids):
        for i in range(photos):
            write_image(folder / f"train/{wnid}/images/{wnid}_{i}.JPEG", 80 * label, (64, 64))
    for i in range(2):
        write_image(folder / f"val/images/val_{i}.JPEG", 100, (64, 64))
    lines = [f"val_{i}.JPEG\t{wnids[2 - i]}\t0\t32\t44\t62\n" for i in range(3)]
    (folder / "val/val_annotations.txt").write_text("".join(lines))
    return folder


def write_coco(folder: Path, captions: dict[str, list[str]]):
    """COCO's layout: training photos with captions."""
    images = [{"id": i, "file_name": name} for i, name in enumerate(captions)]
    rows = [(i, text) for i, name in enumerate(captions) for text in captions[name]]
    annotations = [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(rows)]
    (folder / "annotations").mkdir(parents=True)
    content = json.dumps({"images": images, "annotations": annotations})
    (folder / "annotations/captions_train2017.json").write_text(content)
    for name in captions:
        write_image(folder / "train2017" / name)
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


def box(left, top, right, bottom):
    """The polygon of a rectangle; its last column and row belong to it."""
    return [left, top, right, top, right, bottom, left, bottom]


def thing(photo, category, shape, area, crowd=0):
    """An annotation of COCO's instances. category: of COCO_NAMES."""
    return {"image_id": photo, "category_id": category, "segmentation": shape, "area": area, "iscrowd": crowd}


COCO_NAMES = {1: "person", 5: "airplane", 18: "dog", 51: "bowl"}
LICENCES = {2: "http://creativecommons.org/licenses/by-nc/2.0/", 4: "http://creativecommons.org/licenses/by/2.0/"}


def write_instances(raw: Path, things: list[dict], photos: dict[int, int], absent=(), size=(20, 10)):
    """COCO's validation photos with instances, in the reverse order of their numbers. photos: number -> licence."""
    folder = raw / "coco"
    images = [
        {
            "id": i,
            "file_name": f"{i:012d}.jpg",
            "license": licence,
            "width": size[0],
            "height": size[1],
            "flickr_url": f"http://farm1.staticflickr.com/{i}.jpg",
        }
        for i, licence in sorted(photos.items(), reverse=True)
    ]
    for one in images:
        if one["id"] not in absent:
            write_image(folder / "val2017" / one["file_name"], size=size)
    content = {
        "images": images,
        "annotations": things,
        "licenses": [{"id": i, "url": url} for i, url in LICENCES.items()],
        "categories": [{"id": i, "name": name} for i, name in COCO_NAMES.items()],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return raw
