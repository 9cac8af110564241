"""Brings each source into the form that pacl.data.prepared reads (paper, section 4: training pairs, four segmentation
benchmarks, twelve classification sets). Photos stay in place and only their paths are written, but some pairs of shards
are unpacked.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pacl.data.images import open_image
from pacl.data.prepared import ImageSet, all_scenes, read_pairs, write_labelled, write_pairs, write_scenes
from pacl.runtime.files import new_folder, read_json, write_json
from pacl.runtime.params import Prepare
from pacl.runtime.processes import end_with_parent
from pacl.sources import (
    borders,
    caption_sets,
    classification_sets,
    layouts,
    segmentation_sets,
    shards,
    shown_photos,
    tiny_imagenet,
)
from pacl.sources.miniworld import scenes as miniworld

LABELS = {
    "miniworld": "mini world, not Pascal VOC",
    "flickr8k": "trained on Flickr8k",
    "flickr30k": "trained on Flickr30k",
    "coco": "trained on COCO captions",
    "webdataset": "trained on web pairs",
    "tiny_imagenet": "photographs, small CLIP",
    "own": "trained on your own captions",
    "none": "measured only, not trained here",
}  # marks every result of a source


def prepare(folder: Path, settings: Prepare) -> str | None:
    """Writes all that the settings name into `folder`, atomically.

    Returns sentences on what the data lack, None if they lack nothing. Raises FileNotFoundError with a list of all that
    is missing, and ValueError for unusable data or settings.
    """
    with new_folder(folder) as unfinished:
        if settings.source == "miniworld":
            notes = prepare_miniworld(unfinished, settings)
        else:
            notes = prepare_photos(unfinished, folder, settings)
    return " ".join(filter(None, notes)) or None


def prepare_miniworld(folder: Path, settings: Prepare) -> list[str]:
    """Renders the mini world's training pairs, evaluation scenes and classification sets."""
    check_names("benchmarks", settings.benchmarks, miniworld.BENCHMARKS)
    check_names("classification_sets", settings.classification_sets, miniworld.SETS)
    benchmarks = {name: miniworld.benchmark(name) for name in settings.benchmarks}
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:  # one, so that each process paints everything once
        draw = partial(miniworld.render, pool, seed=settings.seed)
        for split, count in (("train", settings.train_pairs), ("validation", settings.validation_scenes)):
            images, captions = draw(miniworld.pair, count, split=split)
            write_pairs(folder, split, images, [[caption] for caption in captions])
        for split, count in (("validation", settings.validation_scenes), ("test", settings.test_scenes)):
            images, masks = draw(miniworld.labelled_scene, count, split=split)
            pixels = np.bincount(masks.ravel(), minlength=256)
            write_scenes(folder, split, images, masks, benchmarks, pixels=pixels)
            for name in settings.classification_sets:
                made = draw(miniworld.classification_image, settings.classification_images, split=split, set_name=name)
                write_labelled(folder, split, name, *made, miniworld.set_classes(name))
    return []


def check_names(key: str, names: list[str], known: tuple[str, ...]) -> None:
    """Raises ValueError for a name that the mini world doesn't have."""
    if odd := [name for name in names if name not in known]:
        raise ValueError(f"prepare.{key}: the mini world has no {', '.join(odd)}; it has {', '.join(known)}.")


def prepare_photos(folder: Path, finished: Path, settings: Prepare) -> list[str]:
    """Prepares training pairs, benchmarks and classification sets of photos in settings.raw.

    finished: the folder's later name. Returns notes on the data.
    """
    raw = Path(settings.raw)
    layouts.check_present(wanted(raw, settings))
    if settings.source == "webdataset":
        notes = [write_shards(folder, finished, raw / shards.SHARDS["folder"], settings)]
        notes += [borders.note(sorted((folder / "train_images").iterdir()))]
    elif settings.source == "none":
        notes = []
        for split in ("train", "validation"):
            write_pairs(folder, split, [], [])
    else:
        notes = write_captioned(folder, raw, settings)
    for dataset, names in segmentation_sets.image_sets(settings.benchmarks):
        notes += write_image_set(folder, raw, dataset, names, settings)
    if settings.shown:
        shown_photos.write_shown(folder, finished, raw, settings.shown)
    return notes + [classification_sets.write_set(folder, raw, name, settings) for name in settings.classification_sets]


def wanted(raw: Path, settings: Prepare) -> list[tuple[Path, dict, str]]:
    """The (folder, data set, split) that the settings need, as `check_present` takes them."""
    return [
        *((raw / dataset["folder"], dataset, "") for dataset in datasets_of(settings.source)),
        *segmentation_sets.check_benchmarks(raw, settings.benchmarks),
        *classification_sets.check_sets(raw, settings.classification_sets),
        *shown_photos.check_shown(raw, settings.shown),
    ]


def datasets_of(source: str) -> list[dict]:
    """The data sets that a source of photos reads; none if the profile only measures."""
    if source == "tiny_imagenet":
        return tiny_imagenet.wanted(tiny_imagenet.CAPTION_SETS)
    known = caption_sets.CAPTIONED | {"webdataset": shards.SHARDS}
    return [known[source]] if source in known else []


def captioned_images(raw: Path, source: str) -> tuple[list[Path], list[list[str]], list[str]]:
    """A source's images, the captions of each, and sentences on what is missing."""
    if source == "tiny_imagenet":
        return tiny_imagenet.captioned_photos(raw)
    (dataset,) = datasets_of(source)
    images, captions, left_out = caption_sets.captioned(raw / dataset["folder"], dataset)
    return images, captions, [layouts.partial(dataset, len(images)) if dataset["sizes"] else left_out]


def summary(folder: Path, settings: Prepare, note: str | None) -> dict:
    """What the report says of prepared data; note: what `prepare` returned."""
    pairs = read_json(folder / "train_shards.json")["pairs"] if settings.source == "webdataset" else []
    image_sets, (images, captions) = all_scenes(folder, "test"), read_pairs(folder, "train", needed=False)
    benchmarks = {name: one for image_set in image_sets.values() for name, one in image_set.benchmarks.items()}
    credits = [credit for one in all_scenes(folder, "shown", needed=False).values() for credit in one.credits]
    return {
        "label": LABELS[settings.source],
        "source": settings.source,
        "training pairs": sum(pairs) or len(images),
        "captions": sum(pairs) or sum(len(texts) for texts in captions),
        "test scenes": sum(len(one) for one in image_sets.values()),
        "whole benchmarks": whole_benchmarks(image_sets),
        "benchmarks": {name: len(one.classes) for name, one in benchmarks.items()},
        **({"credits": credits} if credits else {}),
        **({"note": note} if note else {}),
    }


def whole_benchmarks(image_sets: dict[str, ImageSet]) -> list[str]:
    """The benchmarks of photos that have all their official test scenes."""
    names, whole = [name for one in image_sets.values() for name in one.benchmarks], []
    for dataset, of_set in segmentation_sets.image_sets(names):
        if dataset["sizes"] and dataset["key"] in image_sets:
            found = len(image_sets[dataset["key"]].images)
            whole += [] if layouts.partial(dataset, found, dataset["test"]) else of_set
    return whole


def write_captioned(folder: Path, raw: Path, settings: Prepare) -> list[str]:
    """Writes the first `train_pairs` of a shuffle by the seed as training pairs, its last as validation pairs. Returns
    notes on the data.
    """
    images, captions, notes = captioned_images(raw, settings.source)
    order = np.random.default_rng(settings.seed).permutation(len(images))
    rest, validation = order[: -settings.validation_scenes], order[-settings.validation_scenes :]
    if not len(rest):
        held_out = f"prepare.validation_scenes ({settings.validation_scenes})"
        raise ValueError(f"There are {len(images)} captioned images, and none is left to train on: lower {held_out}.")
    for split, chosen in (("train", rest[: settings.train_pairs]), ("validation", validation)):
        write_pairs(folder, split, [images[i] for i in chosen], [captions[i] for i in chosen])
    return notes


def write_shards(folder: Path, finished: Path, raw: Path, settings: Prepare) -> str:
    """Writes train_shards.json, the shards to train on and their numbers of pairs; holds out the last of a shuffle.

    Unpacks `validation_scenes` of the held-out pairs and `train_pairs` of the others; the ablations, which train on
    cached features, use these. Raises ValueError if there are fewer.
    """
    found = shards.find_shards(raw)
    counts, note = shards.survey(found, settings.max_bad_share)
    order = np.random.default_rng(settings.seed).permutation(len(found))
    held_out = 1 + int(np.searchsorted(np.cumsum([counts[i] for i in order[::-1]]), settings.validation_scenes))
    if held_out >= len(found):
        raise ValueError(
            f"{raw} has {len(found)} shards, and none is left to train on when whole shards with "
            f"{settings.validation_scenes} pairs are held out: lower prepare.validation_scenes, or download more."
        )
    train, validation = order[:-held_out], order[-held_out:]
    content = {"shards": [str(found[i]) for i in sorted(train)], "pairs": [counts[i] for i in sorted(train)]}
    write_json(folder / "train_shards.json", content)
    for split, chosen, key in (("train", train, "train_pairs"), ("validation", validation, "validation_scenes")):
        pairs = shards.samples([found[i] for i in chosen])
        unpacked, asked = unpack(folder, finished, split, pairs, getattr(settings, key)), getattr(settings, key)
        if unpacked < asked:
            raise ValueError(
                f"The {len(chosen)} shards for {split} give only {unpacked:,} pairs whose image can be read, but "
                f"prepare.{key} asks for {asked:,}: lower it, or download more."
            )
    return note


def unpack(folder: Path, finished: Path, split: str, pairs, most: int) -> int:
    """Writes the first pairs of shards as image files, at most so many, without the corrupt ones; returns how many."""
    images, captions = [], []
    (folder / f"{split}_images").mkdir(parents=True)
    for number, (_, image, caption) in enumerate(pairs):
        name = f"{split}_images/{number:06d}"
        (folder / name).write_bytes(image)
        try:
            open_image(folder / name)
        except ValueError:
            (folder / name).unlink()
            continue
        images.append(finished / name)
        captions.append([caption])
        if len(images) == most:
            break
    write_pairs(folder, split, images, captions)
    return len(images)


def write_image_set(folder: Path, raw: Path, dataset: dict, names: list[str], settings: Prepare) -> list[str]:
    """Writes the first `test_scenes` of the official test split, and validation scenes from the training split or, if
    that is missing, from what the test leaves. Returns notes on the data.
    """
    place = raw / dataset["folder"]
    images, masks, note = segmentation_sets.scenes(place, dataset, dataset["test"])
    test = images[: settings.test_scenes], masks[: settings.test_scenes]
    if dataset["sizes"]:
        note = layouts.partial(dataset, len(test[0]), dataset["test"])
    training = dataset["validation"]
    if training and not layouts.missing(place, dataset, training):
        images, masks, _ = segmentation_sets.scenes(place, dataset, training)
    else:
        images, masks = images[len(test[0]) :], masks[len(test[0]) :]
    splits = {"test": test, "validation": (images[: settings.validation_scenes], masks[: settings.validation_scenes])}
    remedy = "its training split is missing" if training else "let prepare.test_scenes leave some"
    notes = [note, "" if images else f"{dataset['name']} has no scenes for validation: {remedy}."]
    for split, (pictures, labels) in splits.items():
        if pictures:
            segmentation_sets.check_sizes(pictures, labels)
            benchmarks = {name: segmentation_sets.benchmark(name, place, labels) for name in names}
            pixels = segmentation_sets.count_values(labels, list(benchmarks.values()))
            write_scenes(folder, split, pictures, labels, benchmarks, dataset["key"], pixels=pixels)
            notes += segmentation_sets.coverage(pixels, list(benchmarks.values())) if split == "test" else []
    return notes
