"""Small training settings and pairs of random numbers, for all tests that train."""

import json
import multiprocessing
import os
import socket

import numpy as np
import torch
from safetensors.torch import save

from pacl.clip.features import Texts
from pacl.data.pairs import captioned_pairs
from pacl.runtime.files import write_atomically
from pacl.runtime.params import Larger, Pretrain, Train
from pacl.runtime.processes import take_own_locks
from pacl.training import distributed, resume
from pacl.training.cached import CachedPairs
from pacl.training.pretrain import pretrain
from pacl.training.train import Run, batch_loss, train

B, N, D_v, D = 32, 4, 12, 8
SETTINGS = dict(
    embedder="residual", text_embedder="frozen", scoring="cosine", scale=10.0, activation="softmax",
    pooling="all_pairs", pooled="raw", logit_scale="learned", pairs=B, noun_share=0.0, mask_same_text=True,
    batch_size=B, epochs=2, learning_rate=1e-2, betas=(0.9, 0.98), eps=1e-6,
    weight_decay=0.2, warmup_steps=0, max_logit_scale=100.0, precision="float32", compile=False, accumulate=1, seed=0,
)  # fmt: skip
SHORT = dict(pairs=30, batch_size=5, epochs=6, noun_share=0.5, warmup_steps=3, weight_decay=0.1)  # 36 steps
processes = multiprocessing.get_context("fork")  # which have imported torch and open_clip already


def params(**changes):
    return Train(**SETTINGS | changes)


def texts_of(features, numbers, folder, nouns=None):
    """A Texts whose image i has the caption numbers[i], from files as pacl.clip.features writes them."""
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


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def same(weights, others):
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def changed(source, change):
    """The source with `change(epoch, number, batch)` in place of each batch."""
    whole = source.batches

    def batches(epoch, rank=0, world_size=1, start=0):
        for number, batch in enumerate(whole(epoch, rank, world_size, start), start):
            yield change(epoch, number, batch)

    source.batches = batches
    return source


def interrupted(source, steps, error=KeyboardInterrupt):
    """The source with an error in place of the batch after so many steps."""

    def change(epoch, number, batch):
        if epoch * source.steps + number == steps:
            raise error
        return batch

    return changed(source, change)


def stand_alone():
    """For a fork that will be killed: one thread, and no lock in common, which it might die with."""
    take_own_locks()
    torch.set_num_threads(1)


def run_training(folder, changes):
    """A training in a process of its own that saves a state after every step, so that a kill can hit any moment."""
    stand_alone()
    resume.SAVE_SECONDS = 0
    settings = params(**SHORT | changes)
    patches, texts = random_pairs(folder / f"data {os.getpid()}", 30)
    train(CachedPairs(patches, texts, settings), settings, validation=(patches, texts), folder=folder / "out/mini")


def run_pretraining(folder):
    """Four epochs of two steps of a tiny CLIP and two on larger images; writes its weights and history."""
    stand_alone()
    sizes = dict(image_size=16, patch_size=8, width=16, layers=1, head_width=16, embed_dim=8, context_length=8)
    data = dict(source="miniworld", raw=None, caption_sets=[], world_seed=0, scenes=16, templates=[])
    options = dict(broader_weight=0.0, mask_true_texts=True, crop=0.5, colour=0.3, patch_dropout=0.5, whole_epochs=1)
    steps = dict(batch_size=8, epochs=4, learning_rate=3e-3, warmup=0.2, weight_decay=0.1, seed=0)
    larger = Larger(image_size=24, epochs=2, whole_epochs=1, learning_rate=1e-3)
    settings = Pretrain(**data, **options, **sizes, text_width=16, text_layers=1, **steps, larger=larger)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)
    captions = [f"caption {i}" for i in range(16)]

    class Tokenizer:
        vocab_size = 100

        def __call__(self, texts):
            return torch.arange(len(texts) * 8).reshape(-1, 8) % 90

    pairs = captioned_pairs(images, captions)
    model, history = pretrain(pairs, Tokenizer(), settings, resume=folder / "state")
    write_atomically(folder / "weights.safetensors", save(model.state_dict()))
    write_atomically(folder / "history.json", json.dumps(history))


class UnevenPairs(CachedPairs):
    """Pairs whose epochs end with a batch that lacks two."""

    def batches(self, epoch, rank=0, world_size=1, start=0):
        for i, batch in enumerate(super().batches(epoch, start=start), start):
            size = len(batch[0]) - 2 * (i == self.steps - 1)
            own = np.array_split(np.arange(size), world_size)[rank]
            yield tuple(part[own] for part in batch)


def train_uneven(folder, changes):
    """Trains on uneven batches, up to `stop` steps if the changes name it, after the first batch's gradients."""
    stop = changes.pop("stop", None)
    settings = params(**SHORT | {"batch_size": 7, "pairs": 21, "learning_rate": 1e-3, "eps": 1e-4} | changes)
    pairs = random_pairs(folder / f"data {os.getpid()}", 30)
    source = UnevenPairs(*pairs, settings)
    run = Run(source, settings)
    batch = next(source.batches(0, distributed.rank(), distributed.world_size()))
    loss, _ = batch_loss(run.embedder, run.logit_scale(), batch, settings)
    loss.backward()
    distributed.sum_gradients(run.embedder.parameters())
    first = {name: p.grad for name, p in run.embedder.named_parameters()} | {"scale": run.logit_scale.log_scale.grad}
    if stop:
        interrupted(source, stop, SystemExit("interrupted"))
    embedder, history = train(source, settings, validation=pairs, folder=folder / "out/mini")
    return loss.item(), first, {name: tensor.clone() for name, tensor in embedder.state_dict().items()}, history


def join_as(rank, world_size, port):
    """Makes this process one of several, by torchrun's variables."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def run_together(world_size, target, *arguments):
    """The exit codes of so many processes that join each other and call target(rank, world_size, port, *arguments)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        processes.Process(target=target, args=(rank, world_size, port, *arguments)) for rank in range(world_size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(300)
    for process in started:
        process.kill()
    return [process.exitcode for process in started]


def run_rank(rank, world_size, port, folder, changes):
    """One of several processes that train together; rank 0 writes its results."""
    resume.SAVE_SECONDS = 0
    join_as(rank, world_size, port)
    with distributed.process_group():
        found = train_uneven(folder, changes)
        if rank == 0:
            torch.save(found, folder / "found.pt")
