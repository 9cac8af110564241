"""Brings each source into the one form that pacl.data reads (paper, section 4: training pairs, four segmentation benchmarks, twelve classification sets)."""

from pathlib import Path

import numpy as np

from pacl import miniworld
from pacl.data import write_labelled, write_pairs, write_scenes


def prepare_miniworld(folder: Path, params, benchmarks: list[str], sets: list[str]) -> None:
    """Renders training pairs, evaluation scenes and classification sets of the mini world into `folder`.

    params: the `prepare` section. Validation and test scenes have captions too, so that training can be watched on held-out pairs.
    """
    for split, count in (("train", params.train_pairs), ("validation", params.validation_scenes)):
        images, captions = miniworld.pairs(count, seed=params.seed, split=split)
        write_pairs(folder, split, images, [[caption] for caption in captions])
    described = {name: {"classes": miniworld.benchmark_classes(name), "table": miniworld.benchmark_map(name).tolist()} for name in benchmarks}
    for split, count in (("validation", params.validation_scenes), ("test", params.test_scenes)):
        images, masks = miniworld.render(miniworld.labelled_scene, count, seed=params.seed, split=split)
        write_scenes(folder, split, np.stack(images), np.stack(masks), described)
        for set_name in sets:
            made = miniworld.render(miniworld.classification_image, params.classification_images, seed=params.seed, split=split, set_name=set_name)
            write_labelled(folder, split, set_name, np.stack(made[0]), made[1], miniworld.set_classes(set_name))
