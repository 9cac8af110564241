"""What a profile reads, in one form for every source: images with captions, with masks, and with labels (paper, section
4).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pacl.data.benchmark import Benchmark
from pacl.data.images import Images, Masks, TorchvisionImages
from pacl.runtime.files import read_array, read_json, write_json


def store(folder: Path, name: str, source):
    """A prepared file's reference to its pictures: an array is written next to it and named; paths, and the arguments
    of `TorchvisionImages`, are stored as they are.
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
    """The array that `store` wrote, memory-mapped. Raises FileNotFoundError, or ValueError if it is corrupt."""
    array = read_array(path, mmap_mode="r")
    if array.dtype != np.uint8 or array.ndim != 3 and (array.ndim != 4 or array.shape[-1] != 3):
        found = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{path} holds {found}, not pictures: remove it and run the stage that writes it again.")
    return array


def write_pairs(folder: Path, split: str, images, captions: list[list[str]]) -> None:
    """Writes what `read_pairs` reads. images: uint8 [M, H, W, 3] or M paths; captions: a list for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{split}.json", {"images": store(folder, f"{split}_images", images), "captions": captions})


def read_pairs(folder: Path, split: str, *, needed: bool = True) -> tuple[Images, list[list[str]]]:
    """A split's images and each one's captions. Raises FileNotFoundError, or ValueError if there are none but they are
    needed.
    """
    content = read_json(folder / f"{split}.json", "images", "captions")
    if needed and not content["captions"]:
        raise ValueError(
            f"{folder} has no captions, because prepare.source is none and the profile only measures: give its "
            "prepare.source captions to train on, or put a trained embedder in its place (docs/data.md)."
        )
    return Images(source_of(folder, content["images"])), content["captions"]


@dataclass(frozen=True)
class ImageSet:
    """Images and masks that several benchmarks share; benchmarks: by name. pixels: how many of the whole set's have
    each of the 256 values of a mask. credits: where each image is from, if that must be said.
    """

    images: Images
    masks: Masks
    benchmarks: dict[str, Benchmark]
    pixels: tuple[int, ...] = (0,) * 256
    credits: tuple[str, ...] = ()

    def take(self, part: range) -> "ImageSet":
        """Some of the scenes, still read on demand; ignores what lies beyond the end."""
        images, masks, own = self.images.take(part), self.masks.take(part), self.credits[part.start : part.stop]
        return replace(self, images=images, masks=masks, credits=own)

    def first(self, count: int) -> "ImageSet":
        return self.take(range(count))

    def __len__(self) -> int:
        return len(self.images)


def write_scenes(
    folder: Path,
    split: str,
    images,
    masks,
    benchmarks: dict[str, Benchmark],
    image_set: str = "",
    *,
    pixels=(0,) * 256,
    credits: list[str] | None = None,
) -> None:
    """Writes what `all_scenes` reads. images, masks: as `write_pairs` takes images. pixels, credits: see `ImageSet`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join(filter(None, (split, image_set)))
    content = {
        "images": store(folder, f"{name}_scenes", images),
        "masks": store(folder, f"{name}_masks", masks),
        "benchmarks": {name: one.entry() for name, one in benchmarks.items()},
        "pixels": [int(count) for count in pixels],
    }
    write_json(folder / f"{name}_scenes.json", content | ({"credits": credits} if credits else {}))


def all_scenes(folder: Path, split: str, *, needed: bool = True) -> dict[str, ImageSet]:
    """Every image set of a split by name; the mini world's only one is called "".

    Raises FileNotFoundError if there is none, unless none is needed.
    """
    paths = sorted(folder.glob(f"{split}_*scenes.json"))
    if needed and not paths:
        raise FileNotFoundError(f"{folder} has no {split} scenes: run `dvc repro`, or the notebook before this one.")
    return {path.name.removeprefix(split).removesuffix("scenes.json").strip("_"): read_set(path) for path in paths}


def read_set(path: Path) -> ImageSet:
    content = read_json(path, "images", "masks", "benchmarks", "pixels")
    return ImageSet(
        Images(source_of(path.parent, content["images"])),
        Masks(source_of(path.parent, content["masks"])),
        {name: Benchmark.described(name, entry) for name, entry in content["benchmarks"].items()},
        tuple(content["pixels"]),
        tuple(content.get("credits", ())),
    )


def read_scenes(folder: Path, split: str, benchmark: str | None = None) -> ImageSet:
    """The image set of a benchmark, by default the only one. Raises ValueError if there is none, or several."""
    sets = all_scenes(folder, split)
    found = [one for one in sets.values() if benchmark is None or benchmark in one.benchmarks]
    if len(found) != 1:
        has = ", ".join(name for one in sets.values() for name in one.benchmarks)
        raise ValueError(
            f"{folder} must have one set of {split} scenes for {benchmark or 'all benchmarks'}, but it has {has}."
        )
    return found[0]


def read_shown(folder: Path, benchmark: str) -> tuple[ImageSet, Benchmark]:
    """Scenes whose pictures may be shown, and the classes to show: the split "shown" if prepare.shown asked for it, or
    else the test scenes of a benchmark.
    """
    if sets := all_scenes(folder, "shown", needed=False):
        (scenes,) = sets.values()
        return scenes, next(iter(scenes.benchmarks.values()))
    scenes = read_scenes(folder, "test", benchmark)
    return scenes, scenes.benchmarks[benchmark]


@dataclass(frozen=True)
class LabelledSet:
    """A classification set: images, labels [M] as indices of the classes, and its own prompt templates, if any."""

    images: Images
    labels: np.ndarray
    classes: list[str]
    templates: list[str]


def write_labelled(folder: Path, split: str, set_name: str, images, labels: list[int], classes, templates=()) -> None:
    """Writes what `read_labelled` reads. images: as `write_pairs` takes them, or what `TorchvisionImages` takes."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"images": store(folder, f"{split}_{set_name}", images), "labels": labels, "classes": classes}
    write_json(folder / f"{split}_{set_name}.json", content | ({"templates": templates} if templates else {}))


def read_labelled(folder: Path, split: str, set_name: str) -> LabelledSet:
    content = read_json(folder / f"{split}_{set_name}.json", "images", "labels", "classes")
    labels = np.array(content["labels"])
    return LabelledSet(
        Images(source_of(folder, content["images"])), labels, content["classes"], content.get("templates", [])
    )
