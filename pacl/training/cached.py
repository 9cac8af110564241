"""Training batches from tokens and text embeddings that the stage features computed once (pacl.clip.features)."""

import json
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pacl.clip.features import Texts, let_go, rows_of
from pacl.runtime.files import checksum
from pacl.runtime.params import Train


class CachedPairs:
    """A source of training batches: the first `settings.pairs` images, in a new order for each epoch, each with a
    caption or a noun prompt drawn at random.

    A source has `width` (D_v), `text_width` (D), `steps` (batches in an epoch) and `batches`. It may have an `identity`
    (a text that depends on the data: a run resumes only with the same one) and a `clip_identity` (stored with the
    embedder, see pacl.clip.frozen).
    patches: float16 tokens [M, N, D_v], an array or a memory map. texts: their captions and nouns.
    Raises ValueError if there are fewer pairs than settings.pairs.
    """

    def __init__(self, patches: np.ndarray, texts: Texts, settings: Train):
        if len(patches) < settings.pairs:
            raise ValueError(
                f"there are {len(patches)} training pairs, but train.pairs asks for {settings.pairs}: "
                "prepare more, or lower it."
            )
        self.patches, self.texts, self.settings = patches, texts, settings
        self.width, self.text_width = patches.shape[-1], texts.caption_features.shape[-1]
        self.clip_identity = texts.clip_identity
        self.steps = settings.pairs // settings.batch_size
        self.starts = [np.random.default_rng(settings.seed).bit_generator.state]  # of epochs 0, 1, ..., as far as known

    @property
    def identity(self) -> str:
        return identity_of(self.patches, self.texts)

    def batches(self, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """This rank's part of an epoch's batches from number `start` on: tokens float32 [b, N, D_v], text_embeddings
        float32 [b, D], and keys int64 [b], equal for the same text. The ranks' parts concatenated are the batch of one
        process.
        """
        for known in range(len(self.starts), epoch + 1):
            for _ in self._draws(known - 1):
                pass
        for batch, text_embeddings, keys in islice(self._draws(epoch), start, None):
            own = np.array_split(np.arange(len(batch)), world_size)[rank]
            yield torch.from_numpy(rows_of(self.patches, batch[own])).float(), text_embeddings[own], keys[own]

    def _draws(self, epoch: int) -> Iterator[tuple]:
        """Numbers of images [B], text_embeddings [B, D] and keys [B] of each batch."""
        rng = np.random.default_rng()
        rng.bit_generator.state = self.starts[epoch]
        order = rng.permutation(self.settings.pairs)[: self.steps * self.settings.batch_size]
        for batch in np.sort(order.reshape(self.steps, -1)):
            yield batch, *self.texts.draw(rng, batch, self.settings.noun_share)
        if epoch + 1 == len(self.starts):
            self.starts.append(rng.bit_generator.state)


def identity_of(patches: np.ndarray, texts: Texts) -> str:
    """A checksum of the texts and of the tokens of 64 images."""
    rows = np.linspace(0, len(patches) - 1, 64).astype(int)
    arrays = rows_of(patches, rows), texts.caption_features, texts.noun_features
    numbers = json.dumps([patches.shape, texts.captions, texts.nouns]).encode()
    found = checksum(numbers, *(np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays))
    let_go(*arrays)
    return found


def held_out(patches: np.ndarray, texts: Texts, settings: Train) -> Iterator[tuple[Tensor, ...]]:
    """Full batches of all pairs in order, each image with one of its captions."""
    rng, size = np.random.default_rng(0), min(settings.batch_size, len(patches))
    for batch in np.arange(len(patches) // size * size).reshape(-1, size):
        yield torch.from_numpy(rows_of(patches, batch)).float(), *texts.draw(rng, batch, 0.0)
