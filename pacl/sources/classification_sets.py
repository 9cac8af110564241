"""Classification sets of photos: torchvision's, or a folder of images for each class (paper, section 4: twelve)."""

import inspect
from collections import Counter
from pathlib import Path

import numpy as np

from pacl.data.images import pictures_in
from pacl.data.prepared import write_labelled
from pacl.data.prompts import templates
from pacl.runtime.config import project_root, project_yaml
from pacl.runtime.params import Prepare
from pacl.sources import tiny_imagenet
from pacl.sources.layouts import lines_of, partial

PLACES = {"test": ("test", "val", "images"), "validation": ("validation", "train")}  # in raw/NAME


def all_sets() -> dict:
    return project_yaml("data/classification/sets.yaml")


def described(name: str) -> dict:
    """A set's entry in data/classification/sets.yaml, or else one made for torchvision's class or a folder."""
    if name in all_sets():
        return all_sets()[name]
    from torchvision import datasets  # slow to import and rarely needed

    own = {"name": name, "terms": "your own", "templates": "one"}
    own["get"] = f"put images into {{folder}}/{name}/test/CLASS"
    options = inspect.signature(getattr(datasets, name)).parameters if name in datasets.__all__ else {}
    if "split" in options:
        own["torchvision"] = {"class": name, "test": {"split": "test"}, "validation": {"split": "train"}}
    elif "train" in options:
        own["torchvision"] = {"class": name, "test": {"train": False}, "validation": {"train": True}}
    return own


def set_templates(name: str) -> list[str]:
    """The prompt templates of a classification set."""
    own = described(name)["templates"]
    return templates(own) if isinstance(own, str) else own


def check_sets(raw: Path, names: list[str]) -> list[tuple]:
    """What `check_present` must find of the sets that torchvision doesn't."""
    return [(raw, as_dataset(name), "") for name in names if not open_torchvision(raw, described(name), "test")]


def as_dataset(name: str) -> dict:
    """A set as a data set of pacl.sources.layouts."""
    entry = described(name)
    places = [*entry.get("folders", {}).get("test", []), *(f"{name}/{place}" for place in PLACES["test"])]
    expected = [entry["expects"], *places] if "expects" in entry else places
    sizes = {"test": entry["images"]} if "images" in entry else {}
    return {key: entry[key] for key in ("name", "get", "terms")} | {"parts": {"images": expected}, "sizes": sizes}


def open_torchvision(raw: Path, entry: dict, split: str):
    """torchvision's data set of a split, None if it has no such class or doesn't find the files."""
    if "torchvision" not in entry:
        return None
    from torchvision import datasets

    try:
        return getattr(datasets, entry["torchvision"]["class"])(str(raw), **entry["torchvision"][split])
    except (RuntimeError, FileNotFoundError):
        return None
    except ValueError as error:
        raise ValueError(
            f"torchvision's {entry['name']} has no {split} split ({' '.join(str(error).split())}): put its images into "
            f"{entry['name']}/{split}/CLASS, or describe it in data/classification/sets.yaml."
        ) from None


def write_set(folder: Path, raw: Path, name: str, settings: Prepare) -> str:
    """Writes at most `classification_images` test and `validation_scenes` validation images, drawn by the seed, and the
    set's templates. Returns sentences if the test split is incomplete, and on files left out.
    """
    entry, found, notes = described(name), 0, []
    for split, most in (("test", settings.classification_images), ("validation", settings.validation_scenes)):
        if (made := read_split(raw, name, entry, split)) is None:
            continue
        images, labels, classes = made
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(labels))[:most]).tolist()
        if isinstance(images, dict):
            images = images | {"rows": [images["rows"][i] for i in chosen]}
        else:
            images = [images[i] for i in chosen]
            place = split_folder(raw, name, entry, split)
            loose = len(pictures_in(place, recursive=False)[0])
            notes += [pictures_in(place)[1], f"{loose} pictures in {place} are in no class's folder." if loose else ""]
        write_labelled(folder, split, name, images, [labels[i] for i in chosen], classes, set_templates(name))
        found = len(chosen) if split == "test" else found
    notes.insert(0, partial(as_dataset(name), found, "test") if "images" in entry else "")
    return " ".join(filter(None, notes))


def read_split(raw: Path, name: str, entry: dict, split: str) -> tuple | None:
    """(images, labels, classes) of a whole split, None if there is none; images: paths, or the arguments of
    `TorchvisionImages`.
    """
    if name == "tiny_imagenet":
        return tiny_imagenet.validation_split(raw) if split == "test" else None
    dataset = open_torchvision(raw, entry, split)
    if dataset is None:
        place = split_folder(raw, name, entry, split)
        return place and read_folders(place, entry)
    labels = labels_of(dataset)
    rows = list(range(len(labels)))
    if "held_out" in entry:
        shuffled = np.random.default_rng(0).permutation(len(rows)).tolist()
        rows = sorted(shuffled[: entry["held_out"]] if split == "validation" else shuffled[entry["held_out"] :])
    images = {"torchvision": entry["torchvision"]["class"], "root": str(raw), "options": entry["torchvision"][split]}
    return images | {"rows": rows}, [labels[i] for i in rows], class_names(dataset, entry)


def split_folder(raw: Path, name: str, entry: dict, split: str) -> Path | None:
    """The folder of a split's class folders, None if there is none."""
    places = [raw / place for place in entry.get("folders", {}).get(split, [])]
    places += [raw / name / place for place in PLACES[split]]
    return next((place for place in places if place.is_dir()), None)


def labels_of(dataset) -> list[int]:
    """The labels of a torchvision data set, from its list of them or else from its items."""
    for attribute in ("targets", "_labels", "labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def class_names(dataset, entry: dict) -> list[str]:
    """Words for torchvision's classes. Raises ValueError if it has none."""
    if not hasattr(dataset, "classes"):
        raise ValueError(
            f"torchvision has no class names for {entry['name']}: add an entry with `classes` to "
            "data/classification/sets.yaml."
        )
    return [words(str(name), entry) for name in dataset.classes]


def words(name: str, entry: dict) -> str:
    classes = entry.get("classes")
    return classes.get(name, name) if isinstance(classes, dict) else name.replace("_", " ")


def read_folders(place: Path, entry: dict) -> tuple[list[Path], list[int], list[str]]:
    """(images, labels, classes) of a folder for each class; if the set has a list of classes, a folder's name is a key
    or a number of that list. Raises ValueError for any other folder.
    """
    folders = {path.name: path for path in sorted(place.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if isinstance(entry.get("classes"), str):
        listed = dict(line.split(": ", 1) for line in lines_of(class_file(entry["classes"])))
        numbered = {str(number): key for number, key in enumerate(listed)}
        folders = {numbered.get(name, name): path for name, path in folders.items()}
    else:
        listed = {name: words(name, entry) for name in folders}
    odd = sorted(folders.keys() - listed.keys())
    if odd or not folders:
        what = f"a folder {odd[0]}, which is not a class of" if odd else "no folder with images of a class of"
        raise ValueError(f"{place} has {what} {entry['name']}: remove it, or unpack the set again.")
    name, count = Counter(map(str.casefold, listed.values())).most_common(1)[0]
    if count > 1 and not isinstance(entry.get("classes"), str):
        raise ValueError(f"{place} has {count} folders for the class {name}, which CLIP can't tell apart: join them.")
    keys = [key for key in listed if key in folders or not entry.get("only_found")]
    found = [(path, k) for k, key in enumerate(keys) if key in folders for path in pictures_in(folders[key])[0]]
    return [path for path, _ in found], [k for _, k in found], [listed[key] for key in keys]


def class_file(name: str) -> Path:
    return project_root() / f"data/classification/{name}.txt"
