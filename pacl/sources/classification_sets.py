"""Classification sets of photos: torchvision's, or a folder of images a class (paper, section 4: twelve sets)."""

import inspect
from functools import lru_cache
from pathlib import Path

import numpy as np
import yaml

from pacl.data.prepared import write_labelled
from pacl.data.prompts import templates
from pacl.runtime.config import project_root
from pacl.sources.layouts import lines_of, partial
from pacl.sources.segmentation_sets import PHOTO_SUFFIXES

PLACES = {"test": ("test", "val", "images"), "validation": ("validation", "train")}  # of a set below raw/NAME


@lru_cache(maxsize=1)
def all_sets() -> dict:
    return yaml.safe_load((project_root() / "data/classification/sets.yaml").read_text(encoding="utf-8"))


def described(name: str) -> dict:
    """A set's entry in data/classification/sets.yaml or, without one, what is known of torchvision's class of that name
    and of a folder of that name.
    """
    if name in all_sets():
        return all_sets()[name]
    own = {
        "name": name,
        "get": f"put images into {{folder}}/{name}/test/CLASS",
        "terms": "your own",
        "templates": "one",
    }
    from torchvision import datasets  # slow to import, and most profiles have no such set

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
    """What `check_present` must find of the sets that are not there: (folder, data set, "")."""
    return [(raw, as_dataset(name), "") for name in names if not open_torchvision(raw, described(name), "test")]


def as_dataset(name: str) -> dict:
    """A set in the form of pacl.sources.layouts."""
    entry = described(name)
    places = [*entry.get("folders", {}).get("test", []), *(f"{name}/{place}" for place in PLACES["test"])]
    expected = [entry["expects"], *places] if "expects" in entry else places
    sizes = {"test": entry["images"]} if "images" in entry else {}
    return {
        "parts": {"images": tuple(expected)},
        "sizes": sizes,
        **{key: entry[key] for key in ("name", "get", "terms")},
    }


def open_torchvision(raw: Path, entry: dict, split: str):
    """torchvision's dataset of that split, None where it has no class or its files aren't there."""
    if "torchvision" not in entry:
        return None
    from torchvision import datasets

    try:
        return getattr(datasets, entry["torchvision"]["class"])(str(raw), **entry["torchvision"][split])
    except (RuntimeError, FileNotFoundError):
        return None
    except ValueError as error:
        raise ValueError(
            f"torchvision's {entry['name']} has no {split} split of its own ({' '.join(str(error).split())}): put its "
            f"images into {entry['name']}/{split}/CLASS, or describe it in data/classification/sets.yaml."
        ) from None


def write_set(folder: Path, raw: Path, name: str, params) -> str:
    """Writes a set's test images, at most `classification_images`, and, where it has some, at most `validation_scenes`
    validation images, drawn with params.seed. Returns a sentence if the test isn't whole.
    """
    entry, found = described(name), 0
    for split, most in (("test", params.classification_images), ("validation", params.validation_scenes)):
        if (made := read_split(raw, name, entry, split)) is None:
            continue
        images, labels, classes = made
        rng = np.random.default_rng(params.seed)
        chosen = np.sort(rng.permutation(len(labels))[:most]).tolist()
        write_labelled(folder, split, name, rows_of(images, chosen), [labels[i] for i in chosen], classes)
        found = len(chosen) if split == "test" else found
    return partial(as_dataset(name), found, "test") if "images" in entry else ""


def rows_of(images, rows: list[int]):
    """Some rows of a list of paths, or of what `TorchvisionImages` takes."""
    return (
        images | {"rows": [images["rows"][i] for i in rows]} if isinstance(images, dict) else [images[i] for i in rows]
    )


def read_split(raw: Path, name: str, entry: dict, split: str) -> tuple | None:
    """(images, labels, classes) of a whole split, None where there is none."""
    dataset = open_torchvision(raw, entry, split)
    if dataset is None:
        places = [raw / place for place in entry.get("folders", {}).get(split, [])]
        places += [raw / name / place for place in PLACES[split]]
        place = next((place for place in places if place.is_dir()), None)
        return place and read_folders(place, entry)
    labels = labels_of(dataset)
    rows = list(range(len(labels)))
    if "held_out" in entry:
        shuffled = np.random.default_rng(0).permutation(len(rows)).tolist()
        rows = sorted(shuffled[: entry["held_out"]] if split == "validation" else shuffled[entry["held_out"] :])
    images = {
        "torchvision": entry["torchvision"]["class"],
        "root": str(raw),
        "options": entry["torchvision"][split],
        "rows": rows,
    }
    return images, [labels[i] for i in rows], class_names(dataset, entry)


def labels_of(dataset) -> list[int]:
    """The labels of a torchvision dataset, from its list of them or, without one, from its items."""
    for attribute in ("targets", "_labels", "labels"):
        if hasattr(dataset, attribute):
            return [int(label) for label in getattr(dataset, attribute)]
    return [int(dataset[i][1]) for i in range(len(dataset))]


def class_names(dataset, entry: dict) -> list[str]:
    """Words for torchvision's classes. Raises ValueError where it has none."""
    if not hasattr(dataset, "classes"):
        raise ValueError(
            f"torchvision has no class names for {entry['name']}: add an entry to data/classification/sets.yaml whose "
            "`classes` lists them."
        )
    return [words(str(name), entry) for name in dataset.classes]


def words(name: str, entry: dict) -> str:
    classes = entry.get("classes")
    return classes.get(name, name) if isinstance(classes, dict) else name.replace("_", " ")


def read_folders(place: Path, entry: dict) -> tuple[list[Path], list[int], list[str]]:
    """(images, labels, classes) of a folder of images a class; where the set has a list of classes, a folder is called
    as in it, or by its number in it. Raises ValueError for a folder that is neither.
    """
    folders = {path.name: path for path in sorted(place.iterdir()) if path.is_dir()}
    if isinstance(entry.get("classes"), str):
        listed = dict(line.split(": ", 1) for line in lines_of(class_file(entry["classes"])))
        numbered = {str(number): key for number, key in enumerate(listed)}
        folders = {numbered.get(name, name): path for name, path in folders.items()}
    else:
        listed = {name: words(name, entry) for name in folders}
    odd = sorted(folders.keys() - listed.keys())
    if odd or not folders:
        what = f"a folder {odd[0]}, which is no class of" if odd else "no folder with images of a class of"
        raise ValueError(f"{place} has {what} {entry['name']}: remove it, or unpack the set again.")
    keys = [key for key in listed if key in folders or not entry.get("only_found")]
    found = [(path, k) for k, key in enumerate(keys) if key in folders for path in photos_in(folders[key])]
    return [path for path, _ in found], [k for _, k in found], [listed[key] for key in keys]


def photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)


def class_file(name: str) -> Path:
    return project_root() / f"data/classification/{name}.txt"


def class_count(name: str) -> int:
    """How many classes a set of data/classification/sets.yaml has, 0 for one that isn't there."""
    return described(name).get("count", 0)
