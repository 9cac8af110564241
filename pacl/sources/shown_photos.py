"""Photos that a report may show: COCO's under CC BY 2.0, with masks drawn from its instances. Nothing is measured or
trained on them.
"""

import json
from pathlib import Path

from PIL import Image, ImageDraw

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.prepared import write_scenes
from pacl.sources.layouts import class_list, parts_of
from pacl.sources.segmentation_sets import check_sizes, count_values, value_table

COCO_SEEN = {
    "name": "COCO val2017 with instances",
    "folder": "coco",
    "parts": {"photos": ("val2017", "images/val2017"), "instances": ("annotations/instances_val2017.json",)},
    "get": "unpack val2017.zip of images.cocodataset.org/zips and annotations_trainval2017.zip of "
    "images.cocodataset.org/annotations in {folder}",
    "terms": "annotations CC BY 4.0; the photos' Flickr terms, those that are shown CC BY 2.0",
}
SHOWN = {"coco_seen": COCO_SEEN}  # by the names that prepare.shown may have
LICENCE = "creativecommons.org/licenses/by/2.0/"
MOST = 12  # photos
VOC_NAMES = {"airplane": "aeroplane", "motorcycle": "motorbike", "couch": "sofa", "tv": "tvmonitor"}  # of COCO's names


def check_shown(raw: Path, name: str | None) -> list[tuple]:
    """What `check_present` must find for the photos to show."""
    return [(raw / SHOWN[name]["folder"], SHOWN[name], "")] if name else []


def write_shown(folder: Path, finished: Path, raw: Path, name: str) -> None:
    """Writes the split "shown": the first MOST photos by COCO's numbers that have a class of voc_seen; other pixels are
    ignored. finished: the folder's later name. Raises ValueError if there is no such photo.
    """
    paths = parts_of(raw / SHOWN[name]["folder"], SHOWN[name])
    classes = class_list("voc_seen")
    found = licensed(paths["photos"], paths["instances"], [one.replace(" ", "") for one in classes])
    if not found:
        raise ValueError(f"{paths['photos']} has no photo under CC BY 2.0 with a class of voc_seen: unpack it again.")
    (folder / "shown_masks").mkdir()
    for photo, objects in found:
        mask = draw_mask(photo["width"], photo["height"], objects)
        mask.save(folder / f"shown_masks/{photo['id']:012d}.png")
    images = [paths["photos"] / photo["file_name"] for photo, _ in found]
    benchmark = Benchmark(name, tuple(classes), value_table({k: k for k in range(len(classes))}))
    masks = sorted((folder / "shown_masks").iterdir())
    check_sizes(images, masks)
    write_scenes(
        folder,
        "shown",
        images,
        [finished / "shown_masks" / path.name for path in masks],
        {name: benchmark},
        name,
        pixels=count_values(masks, [benchmark]),
        credits=[f"COCO val2017 {photo['id']}, CC BY 2.0, {photo['flickr_url']}" for photo, _ in found],
    )


def licensed(folder: Path, instances: Path, classes: list[str]) -> list[tuple[dict, list]]:
    """The first MOST photos in a folder under LICENCE that have a class, each with all its objects (value, polygons),
    the largest first; the value is the place of the class, or IGNORE. Leaves out crowds. Raises ValueError for a
    corrupt file of instances.
    """
    try:
        content = json.loads(instances.read_text(encoding="utf-8"))
        free = {one["id"] for one in content["licenses"] if one["url"].endswith(LICENCE)}
        names = {one["id"]: VOC_NAMES.get(one["name"], one["name"]).replace(" ", "") for one in content["categories"]}
        objects = {one["id"]: [] for one in content["images"] if one["license"] in free}
        for one in sorted(content["annotations"], key=lambda one: -one["area"]):
            if one["image_id"] in objects and not one["iscrowd"]:
                name = names[one["category_id"]]
                value = classes.index(name) if name in classes else IGNORE
                objects[one["image_id"]].append((value, one["segmentation"]))
        photos = sorted((one for one in content["images"] if one["id"] in objects), key=lambda one: one["id"])
        found = [(photo, objects[photo["id"]]) for photo in photos if (folder / photo["file_name"]).is_file()]
        return [one for one in found if any(value != IGNORE for value, _ in one[1])][:MOST]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{instances} is not a complete JSON file of COCO instances: unpack it again.") from None


def draw_mask(width: int, height: int, objects: list[tuple[int, list]]) -> Image.Image:
    """The label map of objects, each in front of those before it; IGNORE elsewhere."""
    mask = Image.new("L", (width, height), IGNORE)
    for value, polygons in objects:
        for polygon in polygons:
            ImageDraw.Draw(mask).polygon(polygon, fill=value)
    return mask
