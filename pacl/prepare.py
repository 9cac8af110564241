"""Brings each source into the one form that pacl.data reads (paper, section 4: training pairs, four segmentation benchmarks, twelve classification sets)."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from pacl import miniworld
from pacl.data import write_labelled, write_pairs, write_scenes

LABELS = {"miniworld": "mini world, not Pascal VOC", "flickr8k": "Flickr8k and Pascal VOC 2012"}  # what every result of a source is called


def prepare(folder: Path, params) -> None:
    """Brings the source that the `prepare` section names into `folder`."""
    return {"miniworld": prepare_miniworld}[params.source](folder, params)


def prepare_miniworld(folder: Path, params) -> None:
    """Renders training pairs, evaluation scenes and classification sets of the mini world into `folder`; params: the `prepare` section."""
    benchmarks = {name: {"classes": miniworld.benchmark_classes(name), "table": miniworld.benchmark_map(name).tolist()} for name in miniworld.BENCHMARKS}
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
