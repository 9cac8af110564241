"""Brings each source into the one form that pacl.data reads (paper, section 4: training pairs, four segmentation
benchmarks, twelve classification sets).
"""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from pacl import miniworld, sources
from pacl.data import write_labelled, write_pairs, write_scenes

LABELS = {
    "miniworld": "mini world, not Pascal VOC",
    "flickr8k": "Flickr8k and Pascal VOC 2012",
}  # what every result of a source is called


def prepare(folder: Path, params) -> str | None:
    """Brings the source that the `prepare` section names into `folder`, whole or not at all.

    Returns sentences on what the data lack, None if there is nothing to say.
    Raises FileNotFoundError with a table of what is missing, and ValueError for a source or numbers that don't work.
    """
    by_source = {"miniworld": prepare_miniworld, "flickr8k": prepare_flickr8k}
    if params.source not in by_source:
        ready = " or ".join(by_source)
        raise ValueError(f"There is no preparation of {params.source} yet: set prepare.source to {ready}.")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        note = by_source[params.source](unfinished, params)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return note


def prepare_miniworld(folder: Path, params) -> None:
    """Renders training pairs, evaluation scenes and classification sets of the mini world into `folder`; params: the
    `prepare` section.
    """
    benchmarks = {
        name: {"classes": miniworld.benchmark_classes(name), "table": miniworld.benchmark_map(name).tolist()}
        for name in miniworld.BENCHMARKS
    }
    with ProcessPoolExecutor() as pool:  # one for all: each process paints its textures and things once
        draw = partial(miniworld.render, pool, seed=params.seed)
        for split, count in (("train", params.train_pairs), ("validation", params.validation_scenes)):
            images, captions = draw(miniworld.pair, count, split=split)
            write_pairs(folder, split, images, [[caption] for caption in captions])
        for split, count in (("validation", params.validation_scenes), ("test", params.test_scenes)):
            write_scenes(folder, split, *draw(miniworld.labelled_scene, count, split=split), benchmarks)
            for name in miniworld.SETS:
                made = draw(miniworld.classification_image, params.classification_images, split=split, set_name=name)
                write_labelled(folder, split, name, *made, miniworld.set_classes(name))


def prepare_flickr8k(folder: Path, params) -> str | None:
    """Flickr8k to train on, PASCAL VOC 2012 to measure with; their files stay in params.raw, only paths are written.

    Validation pairs are the last `validation_scenes` of a shuffle with params.seed, training pairs the first
    `train_pairs`. Test scenes are VOC's val; validation scenes its train or, without that list, what the test leaves.
    """
    raw = Path(params.raw)
    photos, voc = raw / "flickr8k", raw / "VOCdevkit/VOC2012"
    sources.check_present([(photos, sources.FLICKR8K, ""), (voc, sources.VOC, "val")])
    images, captions = sources.flickr8k(photos)
    train, validation = split_pairs(len(images), params)
    for split, chosen in (("train", train), ("validation", validation)):
        write_pairs(folder, split, [images[i] for i in chosen], [captions[i] for i in chosen])
    test_images, test_masks, note = sources.voc(voc, "val")
    benchmarks = {"voc20": sources.voc20(), "voc21": sources.voc21()}
    write_scenes(folder, "test", test_images[: params.test_scenes], test_masks[: params.test_scenes], benchmarks)
    write_scenes(folder, "validation", *validation_scenes(voc, test_images, test_masks, params), benchmarks)
    return " ".join(filter(None, (sources.partial(sources.FLICKR8K, len(images)), note))) or None


def split_pairs(count: int, params) -> tuple[np.ndarray, np.ndarray]:
    """Which images are trained on and which are held out. Raises ValueError where none is left to train on."""
    order = np.random.default_rng(params.seed).permutation(count)
    rest, validation = order[: -params.validation_scenes], order[-params.validation_scenes :]
    if not len(rest):
        held_out = f"prepare.validation_scenes ({params.validation_scenes})"
        raise ValueError(f"There are {count} captioned images, and none is left to train on: lower {held_out}.")
    return rest[: params.train_pairs], validation


def validation_scenes(voc: Path, images: list[Path], masks: list[Path], params) -> tuple[list[Path], list[Path]]:
    """Scenes that the test doesn't have; images, masks: VOC's val. Raises ValueError where there are none."""
    if (voc / "ImageSets/Segmentation/train.txt").is_file():
        images, masks, _ = sources.voc(voc, "train")
    else:
        images, masks = images[params.test_scenes :], masks[params.test_scenes :]
    if not images:
        raise ValueError(
            f"{voc} has no scenes left for validation: lower prepare.test_scenes ({params.test_scenes}), "
            "or unpack VOC's train split, too."
        )
    return images[: params.validation_scenes], masks[: params.validation_scenes]
