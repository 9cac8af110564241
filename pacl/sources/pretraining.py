"""What a small CLIP is pre-trained on, and the labelled images that show how good it is."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from pacl.data.pairs import Pairs, captioned_pairs
from pacl.runtime.params import Pretrain
from pacl.sources import tiny_imagenet
from pacl.sources.miniworld import scenes as miniworld

Labelled = tuple[np.ndarray, list[int], list[str]]  # uint8 [M, H, W, 3], labels, class names


def pretraining_pairs(settings: Pretrain) -> Pairs:
    """The images and what may be said of them. Raises FileNotFoundError with a list of what is missing."""
    if settings.source == "tiny_imagenet":
        return tiny_imagenet.pretraining_pairs(Path(settings.raw), settings.caption_sets, settings.image_size)
    with ProcessPoolExecutor() as pool:
        drawn = miniworld.render(pool, miniworld.pair, settings.scenes, seed=settings.world_seed, split="pretrain")
    return captioned_pairs(*drawn)


def validation_sets(settings: Pretrain) -> dict[str, Labelled]:
    """Tiny-ImageNet's validation photos, or 1,000 validation images of each of the mini world's classification sets."""
    if settings.source == "tiny_imagenet":
        return {"tiny_imagenet": tiny_imagenet.validation_set(Path(settings.raw), settings.image_size)}
    draw = {"count": 1000, "seed": settings.world_seed, "split": "validation"}
    with ProcessPoolExecutor() as pool:
        drawn = {
            name: miniworld.render(pool, miniworld.classification_image, **draw, set_name=name)
            for name in miniworld.SETS
        }
    return {name: (*made, miniworld.set_classes(name)) for name, made in drawn.items()}
