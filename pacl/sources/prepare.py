"""Brings each source into the one form that pacl.data.prepared reads (paper, section 4: training pairs, four segmentation
benchmarks, twelve classification sets). Photos stay where they are, and their paths are written; only of pairs in
shards some are unpacked.
"""

import itertools
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pacl.data.images import open_image
from pacl.data.prepared import write_labelled, write_pairs, write_scenes
from pacl.runtime.files import write_json
from pacl.runtime.processes import end_with_parent
from pacl.sources import caption_sets, classification_sets, layouts, segmentation_sets, shards
from pacl.sources.miniworld import scenes as miniworld

LABELS = {
    "miniworld": "mini world, not Pascal VOC",
    "flickr8k": "trained on Flickr8k",
    "flickr30k": "trained on Flickr30k",
    "coco": "trained on COCO captions",
    "webdataset": "trained on web pairs",
}  # what every result of a source is called


def prepare(folder: Path, params) -> str | None:
    """Brings what the `prepare` section names into `folder`, whole or not at all.

    Returns sentences on what the data lack, None if there is nothing to say.
    Raises FileNotFoundError with a list of what is missing, and ValueError for data or numbers that don't work.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        if params.source == "miniworld":
            notes = prepare_miniworld(unfinished, params)
        else:
            notes = prepare_photos(unfinished, folder, params)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return " ".join(filter(None, notes)) or None


def prepare_miniworld(folder: Path, params) -> list[str]:
    """Renders training pairs, evaluation scenes and classification sets of the mini world into `folder`; params: the
    `prepare` section.
    """
    check_names("benchmarks", params.benchmarks, miniworld.BENCHMARKS)
    check_names("classification_sets", params.classification_sets, miniworld.SETS)
    described = {
        name: {"classes": miniworld.benchmark_classes(name), "table": miniworld.benchmark_map(name).tolist()}
        for name in params.benchmarks
    }
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:  # one for all: each paints textures and things once
        draw = partial(miniworld.render, pool, seed=params.seed)
        for split, count in (("train", params.train_pairs), ("validation", params.validation_scenes)):
            images, captions = draw(miniworld.pair, count, split=split)
            write_pairs(folder, split, images, [[caption] for caption in captions])
        for split, count in (("validation", params.validation_scenes), ("test", params.test_scenes)):
            write_scenes(folder, split, *draw(miniworld.labelled_scene, count, split=split), described)
            for name in params.classification_sets:
                made = draw(miniworld.classification_image, params.classification_images, split=split, set_name=name)
                write_labelled(folder, split, name, *made, miniworld.set_classes(name))
    return []


def check_names(key: str, names: list[str], known: tuple[str, ...]) -> None:
    """Raises ValueError for a name that the mini world doesn't have."""
    odd = [name for name in names if name not in known]
    if odd:
        raise ValueError(f"prepare.{key}: the mini world has no {', '.join(odd)}; it has {', '.join(known)}.")


def prepare_photos(folder: Path, finished: Path, params) -> list[str]:
    """Captioned photos to train on, benchmarks and classification sets to measure with, all below params.raw.

    finished: the name that `folder` will get. Returns what is to be said of the data.
    """
    raw = Path(params.raw)
    pairs = shards.SHARDS if params.source == "webdataset" else caption_sets.CAPTIONED[params.source]
    layouts.check_present(
        [
            (raw / pairs["folder"], pairs, ""),
            *segmentation_sets.check_benchmarks(raw, params.benchmarks),
            *classification_sets.check_sets(raw, params.classification_sets),
        ]
    )
    if params.source == "webdataset":
        notes = [write_shards(folder, finished, raw / pairs["folder"], params)]
    else:
        notes = [write_captioned(folder, raw / pairs["folder"], pairs, params)]
    notes += [
        note
        for one in segmentation_sets.image_sets(params.benchmarks)
        for note in write_image_set(folder, raw, *one, params)
    ]
    return notes + [classification_sets.write_set(folder, raw, name, params) for name in params.classification_sets]


def whole_benchmarks(image_sets: dict) -> list[str]:
    """The benchmarks of photos of which all official test scenes are there; image_sets: see pacl.data.prepared.all_scenes."""
    names = [name for _, _, described in image_sets.values() for name in described]
    whole = []
    for one, of_set in segmentation_sets.image_sets(names):
        if one["sizes"] and one["key"] in image_sets:
            found = len(image_sets[one["key"]][0])
            whole += [] if layouts.partial(one, found, one["test"]) else of_set
    return whole


def write_captioned(folder: Path, raw: Path, dataset: dict, params) -> str:
    """Training pairs, the first `train_pairs` of a shuffle with params.seed, and validation pairs, its last ones."""
    images, captions = caption_sets.captioned(raw, dataset)
    order = np.random.default_rng(params.seed).permutation(len(images))
    rest, validation = order[: -params.validation_scenes], order[-params.validation_scenes :]
    if not len(rest):
        held_out = f"prepare.validation_scenes ({params.validation_scenes})"
        raise ValueError(f"There are {len(images)} captioned images, and none is left to train on: lower {held_out}.")
    for split, chosen in (("train", rest[: params.train_pairs]), ("validation", validation)):
        write_pairs(folder, split, [images[i] for i in chosen], [captions[i] for i in chosen])
    return layouts.partial(dataset, len(images))


def write_shards(folder: Path, finished: Path, raw: Path, params) -> str:
    """train_shards.json, the shards to train on and how many pairs each has; the last shards of a shuffle are held out.

    `validation_scenes` of the held-out pairs are unpacked, and `train_pairs` of the others, for what works on features
    that are kept: the ablations.
    """
    found = shards.find_shards(raw)
    counts, note = shards.survey(found, params.max_bad_share)
    order = np.random.default_rng(params.seed).permutation(len(found))
    held_out = 1 + int(np.searchsorted(np.cumsum([counts[i] for i in order[::-1]]), params.validation_scenes))
    if held_out >= len(found):
        raise ValueError(
            f"{raw} has {len(found)} shards, and none is left to train on when {params.validation_scenes} pairs are "
            "held out in whole shards: lower prepare.validation_scenes, or download more."
        )
    train, validation = order[:-held_out], order[-held_out:]
    content = {"shards": [str(found[i]) for i in sorted(train)], "pairs": [counts[i] for i in sorted(train)]}
    write_json(folder / "train_shards.json", content)
    for split, chosen, count in (
        ("train", train, params.train_pairs),
        ("validation", validation, params.validation_scenes),
    ):
        pairs = shards.samples([found[i] for i in chosen])
        unpack(folder, finished, split, itertools.islice(pairs, count))
    return note


def unpack(folder: Path, finished: Path, split: str, pairs) -> None:
    """Writes pairs of shards as image files; the torn are left out."""
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
    write_pairs(folder, split, images, captions)


def write_image_set(folder: Path, raw: Path, dataset: dict, names: list[str], params) -> list[str]:
    """Test scenes of an image set, the first `test_scenes` of its official split, and validation scenes, of its
    training split or, where that isn't there, what the test leaves. Returns what is to be said of them.
    """
    place = raw / dataset["folder"]
    images, masks, note = segmentation_sets.scenes(place, dataset, dataset["test"])
    splits = {"test": (images[: params.test_scenes], masks[: params.test_scenes])}
    if dataset["sizes"]:
        note = layouts.partial(dataset, len(splits["test"][0]), dataset["test"])
    training = dataset["validation"]
    if training and not layouts.missing(place, dataset, training):
        rest = segmentation_sets.scenes(place, dataset, training)[:2]
    else:
        rest = (images[len(splits["test"][0]) :], masks[len(splits["test"][0]) :])
    if rest[0]:
        splits["validation"] = tuple(paths[: params.validation_scenes] for paths in rest)
    for split, (pictures, labels) in splits.items():
        segmentation_sets.check_sizes(pictures, labels)
        described = {name: segmentation_sets.benchmark(name, place, labels) for name in names}
        segmentation_sets.check_values(labels, described)
        write_scenes(folder, split, pictures, labels, described, dataset["key"])
    unused = "" if rest[0] else f"{dataset['name']} has no scenes for validation: its training split isn't there."
    return [note, unused]
