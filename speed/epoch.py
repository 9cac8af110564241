"""Where the time of a training epoch goes, and what a step costs at ViT-B/16's size, on all cores.

The mini world's sizes and settings, on random tokens and texts, which cost the same.
"""

import tempfile
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from pacl.clip.features import Texts
from pacl.loss import LogitScale, contrastive_loss
from pacl.model import VisionEmbedder, compatibility
from pacl.runtime.config import load_params
from pacl.runtime.files import write_json
from pacl.runtime.params import Train
from speed import compatibility as phi
from speed.measuring import held, in_own_process, medians, product_rate, row

IMAGES, N, WIDTH, NOUNS, TEMPLATES = 5120, 64, 128, 90, 7  # the mini world's, with a quarter of its images
LARGE = {"B": 256, "N": 196, "in_dim": 768, "out_dim": 512}  # ViT-B/16 at 224 pixels
FLOOR = "the embedder's and phi's operations, forward and backward, at a large matrix product's rate"


def write_stand_in(folder: Path, patches: np.ndarray, captions: np.ndarray, nouns: np.ndarray, named: list) -> None:
    """Tokens [M, N, D_v], one caption per image [M, D], and nouns [P, T, D], of which `named` lists each image's, in
    the files of pacl.clip.features.
    """
    for name, array in (("train_patches", patches), ("caption_features", captions), ("noun_features", nouns)):
        np.save(folder / f"{name}.npy", array.astype(np.float16))
    write_json(folder / "texts.json", {"train": {"captions": [[i] for i in range(len(patches))], "nouns": named}})


def read_stand_in(folder: Path) -> tuple[np.ndarray, Texts]:
    return np.load(folder / "train_patches.npy", mmap_mode="r"), Texts(folder, "train")


def stand_in(folder: Path) -> tuple[np.ndarray, Texts]:
    """Random tokens [M, N, D_v], float16, memory-mapped, and texts: one caption and two nouns per image."""
    rng = np.random.default_rng(0)
    sizes = ((IMAGES, N, WIDTH), (IMAGES, WIDTH), (NOUNS, TEMPLATES, WIDTH))
    arrays = [rng.standard_normal(size, np.float32) for size in sizes]
    write_stand_in(folder, *arrays, rng.integers(NOUNS, size=(IMAGES, 2)).tolist())
    return read_stand_in(folder)


class Training:
    """An embedder with its logit scale and optimiser, and the seconds each part of its steps has taken."""

    def __init__(self, in_dim: int, out_dim: int, settings: Train):
        torch.manual_seed(0)
        self.settings, self.taken = settings, Counter()
        self.embedder, self.logit_scale = VisionEmbedder(in_dim, out_dim, settings.embedder), LogitScale()
        parameters = [*self.embedder.parameters(), *self.logit_scale.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)

    @contextmanager
    def timed(self, part: str):
        start = perf_counter()
        yield
        self.taken[part] += perf_counter() - start

    def step(self, tokens: Tensor, texts: Tensor, keys: Tensor) -> float:
        """Takes a step on tokens [B, N, D_v], texts [B, D] and keys [B]; returns the loss before it."""
        with self.timed("embedder"):
            patches = self.embedder(tokens)
        with self.timed("phi"):
            similarity = compatibility(patches, texts, scoring=self.settings.scoring, scale=self.settings.scale)
        with self.timed("loss"):
            loss = contrastive_loss(similarity, self.logit_scale(), keys[:, None] == keys)
        self.optimizer.zero_grad()
        with self.timed("gradients"):
            loss.backward()
        with self.timed("optimiser"):
            self.optimizer.step()
        return loss.item()

    def epoch(self, patches: np.ndarray, texts: Texts, rng: np.random.Generator) -> list[float]:
        """Trains on every whole batch of patches [M, N, D_v] in random order; returns the losses."""
        losses, size = [], self.settings.batch_size
        for batch in rng.permutation(len(patches))[: len(patches) // size * size].reshape(-1, size):
            batch = np.sort(batch)
            with self.timed("reading"):
                tokens = torch.from_numpy(np.asarray(patches[batch])).float()
            with self.timed("drawing texts"):
                drawn, keys = texts.draw(rng, batch, self.settings.noun_share)
            losses.append(self.step(tokens, drawn, keys))
        return losses


def operations(B: int, N: int, in_dim: int, out_dim: int) -> int:
    """Of a step: forward, gradients of the weights and of all but the first layers' inputs, and phi's own."""
    main, skip, last = (2 * B * N * size for size in (in_dim * out_dim, in_dim * out_dim, out_dim * out_dim))
    return 2 * (main + skip) + 3 * last + phi.operations(B, N, B, out_dim)


def mini_epoch(settings: Train) -> dict:
    """An epoch of the mini world's pairs, and its parts."""
    with tempfile.TemporaryDirectory() as folder:
        patches, texts = stand_in(Path(folder))
        training, rng = Training(WIDTH, WIDTH, settings), np.random.default_rng(0)
        training.epoch(patches[: 4 * settings.batch_size], texts, rng)  # warms up
        training.taken.clear()
        steps = len(training.epoch(patches, texts, rng))
    in_epoch = settings.pairs // settings.batch_size
    parts = {part: seconds / steps * in_epoch for part, seconds in training.taken.items()}
    return row(
        f"an epoch of the mini world, {in_epoch} steps of {settings.batch_size} pairs",
        {"ours": sum(parts.values())},
        floor_seconds=in_epoch * operations(settings.batch_size, N, WIDTH, WIDTH) / product_rate(),
        floor=FLOOR,
        parts=parts,
    )


def large_batch() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(LARGE["B"], LARGE["N"], LARGE["in_dim"], generator=rng)
    return tokens, torch.randn(LARGE["B"], LARGE["out_dim"], generator=rng), torch.arange(LARGE["B"])


def memory(settings: Train) -> float:
    """GB of a step at ViT-B/16's size with its inputs; call it in a process of its own."""
    training = Training(LARGE["in_dim"], LARGE["out_dim"], settings)
    return held(lambda: training.step(*large_batch()))


def large_step(settings: Train) -> dict:
    """A training step at ViT-B/16's size."""
    training = Training(LARGE["in_dim"], LARGE["out_dim"], settings)
    taken = medians({"ours": partial(training.step, *large_batch())}, 3)
    return row(
        f"a training step at ViT-B/16's size, {LARGE['B']} pairs",
        taken,
        gigabytes={"ours": in_own_process(memory, settings)},
        floor_seconds=operations(**LARGE) / product_rate(),
        floor=FLOOR,
        seconds_a_pair=taken["ours"] / LARGE["B"],
    )


def measure() -> dict:
    settings = load_params("mini", "train").train
    epoch = mini_epoch(settings)
    whole = epoch["seconds"]["ours"]
    shares = [f"{part} {seconds / whole:.0%}" for part, seconds in epoch["parts"].items()]
    return {
        "threads": torch.get_num_threads(),
        "rows": [epoch, large_step(settings)],
        "notes": [f"Of the mini world's epoch: {', '.join(shares)}."],
    }
