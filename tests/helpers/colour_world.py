"""Pictures whose patch tokens are colours, with benchmarks, methods and protocols to measure on them."""

import zlib
from collections import Counter

import numpy as np
import torch
from torch.nn import functional as F

from helpers import stand_in
from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Images, Masks
from pacl.data.prepared import ImageSet
from pacl.runtime.params import Protocol
from pacl.segment import Method


class ColourCLIP(stand_in.ColourCLIP):
    """A text's embedding is a hash of its words."""

    dim = 6

    def normalize(self, images):
        return images - 0.5

    def text_features(self, prompts):
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        texts = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return F.normalize(texts, dim=-1)


class CountingCLIP(ColourCLIP):
    """Counts how often it sees each image by stride, images by stride and kind of pass, and prompts."""

    def __init__(self):
        self.seen, self.passes, self.prompts = Counter(), Counter(), Counter()

    def patch_features_by(self, images, last_blocks, stride=None, *, passes="joint", **how):
        stride = stride or self.patch_size
        self.seen.update((image.sum().item(), stride) for image in images)
        self.passes[stride, passes] += len(images)
        return super().patch_features_by(images, last_blocks, stride, passes=passes, **how)

    def text_features(self, prompts):
        self.prompts.update(prompts)
        return super().text_features(prompts)


def squares(tokens):
    return torch.cat([tokens, tokens.square() - 0.1], dim=-1)  # [B, N, 6]


def cubes(tokens):
    return torch.cat([tokens.pow(3), tokens.flip(-1)], dim=-1)


def table_of(*labels):
    """Mask values 0, 1, ... stand for these classes, 255 for none."""
    return (*labels, *[-1] * (255 - len(labels)), IGNORE)


METHODS = {"clip": Method(squares, "clip"), "pacl": Method(cubes, "clip")}
PACL = {"pacl": METHODS["pacl"]}
BENCHMARKS = {
    "plain": Benchmark("plain", ("cat, kitten", "dog", "duck", "sea, lake"), table_of(0, 1, 2, 3)),
    "with_background": Benchmark(
        "with_background", ("background", "cow", "green hill, hill"), table_of(0, 0, 1, 2),
        {"words": ("sky, wall, sea", "cow", "green hill, hill")},  # for the background, too
    ),
}  # fmt: skip
PROTOCOLS = {
    "whole": Protocol(token_stride=2, background_rule="entropy", background_threshold=0.55, logit_scale=3.0),
    "windows": Protocol(
        short_side=16, window=12, window_stride=6, background_rule="probability", background_threshold=0.5,
        logit_scale=3.0,
    ),
    "listed": Protocol(templates="one", logit_scale=3.0),
}  # fmt: skip


def pictures(sizes):
    """Random images of large blocks of colour with masks [H, W] of values 0 to 3 and 255."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for H, W in sizes:
        blocks = rng.integers(0, 256, (-(-H // 6), -(-W // 6), 3), dtype=np.uint8)
        images.append(np.kron(blocks, np.ones((6, 6, 1), np.uint8))[:H, :W])
        masks.append(rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (H, W)))
    return images, masks


def image_set(images, masks, benchmarks=BENCHMARKS):
    return ImageSet(Images(images), Masks(masks), benchmarks)
