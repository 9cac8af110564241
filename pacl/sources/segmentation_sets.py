"""Segmentation benchmarks in their official layouts, and any folder of images and masks (paper, section 4).

Benchmarks that share images and masks are one image set.
"""

import functools
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from pacl.data.benchmark import IGNORE, Benchmark, is_background, phrases_of
from pacl.data.images import Masks, endings, pictures_in, unreadable
from pacl.runtime.config import project_root, project_yaml
from pacl.sources.layouts import by_stem, class_list, data_set, lines_of, numbered_lines, partial, parts_of, shown

NO_LABEL = -1  # in a table: a value that no mask may hold
LABEL_ENDINGS = (".png", ".tif", ".tiff", ".npy", ".bmp", ".gif")  # whose files keep every value
VOID = re.compile(r"void\s*:\s*(\d+(?:\s*,\s*\d+)*)", re.IGNORECASE)  # a line of classes.txt
THINGS = re.compile(r"things\s*:(.+)", re.IGNORECASE)  # another
MARKS = re.compile(r"\W|\d+\s*[:;.)=\t]|.*[#:;=|\"\t]")  # of comments, of numbered lists, of other formats
NO_NAME = re.compile(r"[\W\d_]*|_*(bg|void|ignored?|unlabell?ed|undefined)_*", re.IGNORECASE)
NUMBERED = re.compile(r"(\d+)\s.*|.*\s(\d+)")
COCO_UNUSED = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}  # raw values without a class
CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # of the 19 classes
# Classes that fill most of Pascal Context's pixels; they distinguish the two orders of its labels.
CONTEXT_COMMON = ("sky", "wall", "grass", "ground", "person", "building", "tree", "water", "road", "floor")
CONTEXT_SPELLINGS = {"bedcloth": "bedclothes", "clothes": "cloth", "diningtable": "table"}
ORDER_MASKS = 100  # how many masks are read to check the order
IMAGE_SETS = VOC, CONTEXT, COCO_STUFF, ADE20K, CITYSCAPES = [
    data_set(key) for key in ("voc", "context", "coco_stuff", "ade20k", "cityscapes")
]


def own_set(name: str) -> dict:
    """Any folder with images/, masks/ (files of the same names) and classes.txt (line i names value i)."""
    known = ", ".join(benchmark for known in IMAGE_SETS for benchmark in known["benchmarks"])
    return {
        "name": name,
        "key": name.strip("/").replace("/", "_"),  # part of a file's name
        "folder": name,
        "benchmarks": (name,),
        "test": "all",
        "validation": None,
        "sizes": {},
        "parts": {"photos": ("images",), "masks": ("masks",), "classes": ("classes.txt",)},
        "get": f"put them there, or name one of {known}",
        "terms": "your own",
    }


def image_sets(names: list[str]) -> list[tuple[dict, list[str]]]:
    """The image sets of the named benchmarks, each with those of its benchmarks. Raises ValueError if a folder has an
    image set's name.
    """
    set_of = {benchmark: known for known in IMAGE_SETS for benchmark in known["benchmarks"]}
    sets = {}
    for one in (set_of.get(name) or own_set(name) for name in names):
        if sets.setdefault(one["key"], one)["name"] != one["name"]:
            raise ValueError(f"benchmark {one['name']} has the same name as {sets[one['key']]['name']}: rename it.")
    return [(one, [name for name in names if name in one["benchmarks"]]) for one in sets.values()]


def check_benchmarks(raw: Path, names: list[str]) -> list[tuple]:
    """What `check_present` must find for the test scenes of the named benchmarks."""
    return [(raw / one["folder"], one, one["test"]) for one, _ in image_sets(names)]


def scenes(folder: str | Path, dataset: dict, split: str) -> tuple[list[Path], list[Path], str]:
    """A split's images and masks, in the order of its official list or else of names, and a sentence if it is
    incomplete, else "".

    Omits images without a mask. Raises FileNotFoundError if a part, or every pair, is missing, and ValueError for an
    unknown split.
    """
    if dataset["sizes"] and split not in dataset["sizes"]:
        raise ValueError(f"{dataset['name']} has no masks of a split {split!r}: use {', '.join(dataset['sizes'])}.")
    paths = parts_of(folder, dataset, split)
    pictures, left_out = pictures_in(paths["photos"])
    photos = by_stem(pictures, dataset.get("photo_suffix", ""))
    labels, others = pictures_in(paths["masks"], LABEL_ENDINGS)
    left_out = " ".join(filter(None, (left_out, others)))
    names = [listed_name(line) for line in lines_of(paths["split"])] if "split" in paths else sorted(photos)
    for suffix in dataset.get("mask_suffixes", ("",)):
        masks = by_stem(labels, suffix)
        found = [name for name in names if name in photos and name in masks]
        if found:
            break
    else:
        listed = f", {paths['split']} names {shown(names)}" if "split" in paths else ""
        raise FileNotFoundError(
            f"{paths['photos']} has no image with a mask in {paths['masks']}{listed}; the images are "
            f"{shown([path.name for path in pictures])}, the masks {shown([path.name for path in labels])}: give each "
            f"mask its image's name, with .png, .tif or .npy, or unpack them again. {left_out}".strip()
        )
    images, masks = [photos[name] for name in found], [masks[name] for name in found]
    if dataset["sizes"]:
        return images, masks, partial(dataset, len(found), split)
    without = len(names) - len(found)
    omitted = f"{dataset['name']}: {without} images without a mask are omitted." if without else ""
    return images, masks, " ".join(filter(None, (omitted, left_out)))


def listed_name(line: str) -> str:
    """The name of an image in a split's line, which may also have its folder, its ending and its mask."""
    path = PurePosixPath(re.split(r"[\s,;]", line)[0].replace("\\", "/"))
    return path.stem if path.suffix.lower() in endings() else path.name


def check_sizes(images: list[Path], masks: list[Path]) -> None:
    """Raises ValueError if a mask and its upright image differ in size; reads only the files' headers."""
    for image, mask in zip(images, masks, strict=True):
        (stored, upright), (size, _) = sizes_of(image), sizes_of(mask)
        if size != upright:
            turned, remedy = "", "make them equal in size"
            if size == stored:
                turned, remedy = " after its EXIF tag turns it", "turn the mask, too, or remove the tag"
            raise ValueError(
                f"{mask} has {size[0]} x {size[1]} pixels, its image {image} {upright[0]} x {upright[1]}{turned}: "
                f"{remedy}."
            )


def sizes_of(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """The width and height of an image as stored, by the file's header, and once it is upright."""
    try:
        if path.suffix.lower() == ".npy":
            size = np.load(path, mmap_mode="r").shape[1::-1]
            return size, size
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image) if image.getexif().get(0x0112, 1) > 1 else image
            return image.size, turned.size
    except Exception as error:  # Pillow's decoders raise nearly any kind for a damaged file
        raise ValueError(unreadable(path, error)) from None


def count_values(masks: list[Path], benchmarks: list[Benchmark]) -> np.ndarray:
    """How many pixels of all masks have each value, [256]. Raises ValueError that names a mask with a value that no
    class of a benchmark has, and a benchmark that has no labelled pixel.
    """
    labels, pixels = Masks(masks), np.zeros(256, int)
    for i, path in enumerate(masks):
        values, counts = np.unique(labels[i], return_counts=True)
        for one in benchmarks:
            try:
                one.target(values)
            except ValueError as error:
                known = 255 in values and one.table[255] == NO_LABEL
                hint = " Official masks never hold 255; train ids do, and masks with 1 subtracted." if known else ""
                raise ValueError(f"{path}, for {one.name}: {error}{hint}") from None
        pixels[values] += counts
    for one in benchmarks:
        check_labelled(one, pixels, masks[0].parent)
    return pixels


def check_labelled(one: Benchmark, pixels: np.ndarray, folder: Path) -> None:
    """Raises ValueError if all pixels are ignored, or may well be so by mistake."""
    found = pixels.nonzero()[0].tolist()
    if all(one.table[value] == IGNORE for value in found):
        raise ValueError(
            f"{one.name} ignores every pixel of the masks in {folder}: check its classes and their values."
        )
    if found == [0, 255] and len(one.classes) == 2 and one.table[255] == IGNORE:
        raise ValueError(
            f"the masks in {folder} hold only 0 and 255, but {one.name} ignores 255 and has the value 1 for "
            f"{one.names[1]}: save that class as 1."
        )


def coverage(pixels: np.ndarray, benchmarks: list[Benchmark]) -> list[str]:
    """A sentence for each benchmark with classes that no pixel has, and for a user's own with ignored pixels."""
    sentences = []
    for one in benchmarks:
        *classes, ignored = one.shares(pixels)
        absent = [row["class"] for row in classes if not row["share"]]
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        parts = (
            [f"{len(absent)} of {len(classes)} classes never occur ({', '.join(absent[:10])}{more})"] if absent else []
        )
        if one.name not in TABLES and ignored["share"]:
            parts.append(f"{ignored['share']:.1%} of the pixels are ignored")
        sentences += [f"{one.name}: {'; '.join(parts)}."] if parts else []
    return sentences


def benchmark(name: str, folder: str | Path, masks: list[Path]) -> Benchmark:
    """A benchmark, with the list "sclip" of phrases if that protocol's evaluators use other words for its classes.

    folder, masks: of its image set; the masks decide the table.
    """
    if name not in TABLES:
        return own_benchmark(name, Path(folder) / "classes.txt")
    words = project_root() / f"data/classes/sclip/{name}.txt"
    phrases = {"sclip": tuple(lines_of(words))} if words.is_file() else {}
    one = Benchmark(name, tuple(class_list(name)), TABLES[name](Path(folder), masks), phrases)
    return replace(one, things=things_of(one))


def things_of(one: Benchmark) -> tuple[str, ...]:
    """The things of a public benchmark: all but its background and data/classes/stuff.yaml; of COCO-Stuff the first 80
    classes.
    """
    if one.name == "coco_stuff":
        return tuple(one.names[:80])
    stuff = project_yaml("data/classes/stuff.yaml").get(one.name, ())
    return tuple(name for name in one.names if name not in stuff and not is_background(name))


def own_benchmark(name: str, path: Path) -> Benchmark:
    """The benchmark of a classes.txt, whose first line names value 0; `-` stands for a value that is ignored, and a
    further line such as `void: 254` for ignored values of any number. A background becomes class 0. A line such as
    `things: boat, gull` says which classes are things.
    """
    lines = numbered_lines(path)
    things = next((match for line in lines if (match := THINGS.fullmatch(line))), None)
    names = [line for line in lines if not VOID.fullmatch(line) and not THINGS.fullmatch(line)]
    void = {int(value) for line in lines if (match := VOID.fullmatch(line)) for value in match[1].split(",")}
    check_class_names(path, names)
    of_classes = [value for value, line in enumerate(names) if line != "-"]
    if void and max(void) > 255:
        raise ValueError(f"{path} names {max(void)} void, but masks hold values up to 255: correct it.")
    if both := void.intersection(of_classes):
        raise ValueError(f"{path} names value {min(both)} both {names[min(both)]} and void: remove one of the two.")
    if not 0 < len(of_classes) <= IGNORE or len(names) > 256:
        raise ValueError(f"{path} must name 1 to 255 classes, of values up to 255; it names {len(of_classes)}.")
    of_classes.sort(key=lambda value: not is_background(names[value]))
    ignored = void | {value for value, line in enumerate(names) if line == "-"}
    table = value_table(dict.fromkeys(ignored, IGNORE) | {value: k for k, value in enumerate(of_classes)})
    one = Benchmark(name, tuple(names[value] for value in of_classes), table)
    if odd := set(phrases_of(things[1])) - set(one.names) if things else ():
        raise ValueError(f"{path} counts {min(odd)} among its things, which is not the name of a class: correct it.")
    return replace(one, things=tuple(phrases_of(things[1]))) if things else one


def check_class_names(path: Path, names: list[str]) -> None:
    """Raises ValueError for a line of classes.txt that is more, or less, than a name, and for a phrase that two classes
    have.
    """
    named = {value: line for value, line in enumerate(names) if line != "-"}
    numbers = [(NUMBERED.fullmatch(line), value) for value, line in named.items()]
    counted = all(found for found, _ in numbers) and len({int(f[1] or f[2]) - value for f, value in numbers}) == 1
    line_of = {}
    for value, line in named.items():
        phrases = phrases_of(line)
        if counted or not phrases or any(MARKS.match(phrase) or NO_NAME.fullmatch(phrase) for phrase in phrases):
            raise ValueError(
                f"{path}, line {value + 1} is {line!r}: write the class's name alone, because the line's place says "
                f"its value ({value}), or - for a value without a class."
            )
        for phrase in phrases:
            first = line_of.setdefault(" ".join(phrase.casefold().split()), value + 1)
            if first != value + 1:
                raise ValueError(
                    f"{path} has {phrase!r} in lines {first} and {value + 1}: no pixel could get the second."
                )


def value_table(classes: dict[int, int]) -> tuple[int, ...]:
    """A benchmark's table; no mask may hold a value without a class, but 255 is always ignored."""
    return tuple(classes.get(value, IGNORE if value == 255 else NO_LABEL) for value in range(256))


def from_one(count: int) -> tuple[int, ...]:
    """The table of masks in which values 1 to count are the classes and 0 is ignored."""
    return value_table({0: IGNORE} | {value: value - 1 for value in range(1, count + 1)})


def seen_table() -> tuple[int, ...]:
    """The table of those of VOC's classes that the photoclip's pre-training has seen; all others are ignored."""
    all_classes, seen = class_list("voc20"), [name.replace(" ", "") for name in class_list("voc_seen")]
    return value_table(dict.fromkeys(range(21), IGNORE) | {1 + all_classes.index(n): k for k, n in enumerate(seen)})


def context_table(folder: Path, masks: list[Path], *, background: bool) -> tuple[int, ...]:
    """The table of masks in alphabetical order or, if 59_labels.txt is in the folder, in that file's order.

    Raises ValueError if the masks seem to have the other order.
    """
    alphabetical, voc_first = class_list("context59"), class_list("context59_voc_first")
    listed = next((path for place in ("59_labels.txt", "*/59_labels.txt") for path in folder.glob(place)), None)
    order = listed_order(listed) if listed else alphabetical
    check_order(masks, order, voc_first if order == alphabetical else alphabetical)
    first = 1 if background else 0
    classes = {v: first + alphabetical.index(c) for v, c in enumerate(order, 1)}
    table = value_table({0: 0 if background else IGNORE} | classes)
    return (*table[:255], NO_LABEL)  # 255 only where 1 was already subtracted


def listed_order(path: Path) -> list[str]:
    """The class names of 59_labels.txt, whose lines are such as "11: diningtable", in this project's spelling."""
    names = [line.partition(":")[2].strip() for line in lines_of(path)]
    names = [CONTEXT_SPELLINGS.get(name, name) for name in names if name != "background"]
    if sorted(names) != sorted(class_list("context59")):
        raise ValueError(
            f"{path} doesn't list Pascal Context's 59 classes in lines such as 1: aeroplane: download it again."
        )
    return names


def check_order(masks: list[Path], order: list[str], other: list[str]) -> None:
    """Raises ValueError if Pascal Context's most common classes would fill far more pixels in the other order."""
    pixels = sum(np.bincount(mask.ravel(), minlength=256)[:256] for mask in Masks(masks[:ORDER_MASKS]))
    common, in_other = (sum(pixels[1 + names.index(name)] for name in CONTEXT_COMMON) for names in (order, other))
    if in_other > 1.5 * common:
        raise ValueError(
            f"the labels in {masks[0].parent} have the order aeroplane, {other[1]}, {other[2]} ..., but aeroplane, "
            f"{order[1]}, {order[2]} ... was expected: put 59_labels.txt next to masks with VOC's classes first, and "
            "remove it for masks in alphabetical order."
        )


def coco_stuff_table(folder: Path, masks: list[Path]) -> tuple[int, ...]:
    """The table of raw values (official id - 1), or of train ids if the file names say so."""
    return value_table({value: value for value in range(171)} if train_ids(masks) else coco_train_ids())


def coco_object_table(folder: Path, masks: list[Path]) -> tuple[int, ...]:
    """The table of COCO-Stuff's 80 things; all stuff and unlabelled pixels are background, class 0 (as in GroupViT)."""
    ids = {value: value for value in range(171)} if train_ids(masks) else coco_train_ids()
    return value_table({IGNORE: 0} | {value: index + 1 if index < 80 else 0 for value, index in ids.items()})


def coco_train_ids() -> dict[int, int]:
    return {value: index for index, value in enumerate(v for v in range(182) if v not in COCO_UNUSED)}


def cityscapes_table(folder: Path, masks: list[Path]) -> tuple[int, ...]:
    """The table of official ids, of which 19 are evaluated, or of train ids if the file names say so."""
    if train_ids(masks):
        return value_table({index: index for index in range(19)})
    ids = dict.fromkeys(range(34), IGNORE) | {value: index for index, value in enumerate(CITYSCAPES_IDS)}
    return value_table(ids | {255: NO_LABEL})  # train ids have 255, official ids don't


def train_ids(masks: list[Path]) -> bool:
    return masks[0].stem.endswith("_labelTrainIds")


TABLES = {
    "voc20": lambda folder, masks: from_one(20),
    "voc21": lambda folder, masks: value_table({value: value for value in range(21)}),
    "voc_seen": lambda folder, masks: seen_table(),
    "context59": functools.partial(context_table, background=False),
    "context60": functools.partial(context_table, background=True),
    "coco_stuff": coco_stuff_table,
    "coco_object": coco_object_table,
    "ade20k": lambda folder, masks: (*from_one(150)[:255], NO_LABEL),  # 255 only where 1 was already subtracted
    "cityscapes": cityscapes_table,
}
