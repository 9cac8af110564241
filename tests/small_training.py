"""Small training settings and pairs of random numbers, for all tests that train."""

import json
import os

import numpy as np
import torch

from pacl import resume
from pacl.cached import CachedPairs
from pacl.features import Texts
from pacl.params import Train
from pacl.train import train

B, N, D_v, D = 32, 4, 12, 8
SETTINGS = dict(
    embedder="residual", text_embedder="frozen", scoring="cosine", scale=10.0, activation="softmax",
    pooling="all_pairs", pairs=B, noun_share=0.0, mask_same_text=True, batch_size=B, epochs=2, learning_rate=1e-2,
    betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, warmup_steps=0, max_logit_scale=100.0, precision="float32",
    compile=False, accumulate=1, seed=0,
)  # fmt: skip
SHORT = dict(pairs=30, batch_size=5, epochs=6, noun_share=0.5, warmup_steps=3, weight_decay=0.1)  # 36 steps


def params(**changes):
    return Train(**SETTINGS | changes)


def texts_of(features, numbers, folder, nouns=None):
    """A Texts whose image i has the caption numbers[i], made of the files that pacl.features writes."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "caption_features.npy", features.astype(np.float16))
    np.save(folder / "noun_features.npy", np.zeros((0, 1, D), np.float16) if nouns is None else nouns)
    found = [[0]] * len(numbers) if nouns is not None else [[]] * len(numbers)
    table = {"train": {"captions": [[number] for number in numbers], "nouns": found}}
    (folder / "texts.json").write_text(json.dumps(table))
    return Texts(folder, "train")


def random_pairs(folder, count=B, seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(count, N, D_v)).astype(np.float16)
    text = rng.normal(size=(count, D))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return patches, texts_of(text, range(count), folder)


def run_training(folder, changes):
    """What a process of its own does: a state after every step, so that a kill can hit any moment."""
    resume.SAVE_SECONDS = 0
    torch.set_num_threads(1)
    settings = params(**SHORT | changes)
    patches, texts = random_pairs(folder / f"data {os.getpid()}", 30)
    train(CachedPairs(patches, texts, settings), settings, validation=(patches, texts), folder=folder / "out/mini")
