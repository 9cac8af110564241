"""Training batches of tokens and text embeddings that lie on the disk, computed once (pacl.clip.features)."""

import hashlib
import json
from itertools import islice

import numpy as np
import torch

from pacl.clip.features import Texts


class CachedPairs:
    """A source of training batches: the first `params.pairs` images of a folder of features, in an order drawn anew for
    each epoch, with a caption or a noun prompt drawn for each.

    A source has `width` (D_v), `text_width` (D), `steps` (an epoch's batches) and `epoch`; one with an `identity` (a
    text that other data would change) is told from others when a cut run goes on, and the `clip_identity` of one that
    has it is written beside the embedder (pacl.clip).
    patches: [M, N, D_v], float16 tokens, as an array or a memory map. texts: their captions and nouns.
    Raises ValueError when there are fewer pairs than asked for.
    """

    def __init__(self, patches: np.ndarray, texts: Texts, params):
        if len(patches) < params.pairs:
            raise ValueError(
                f"there are {len(patches)} training pairs, but train.pairs asks for {params.pairs}: "
                "prepare more, or lower it."
            )
        self.patches, self.texts, self.params = patches, texts, params
        self.width, self.text_width = patches.shape[-1], texts.caption_features.shape[-1]
        self.clip_identity = texts.clip_identity
        self.steps = params.pairs // params.batch_size
        self.starts = [np.random.default_rng(params.seed).bit_generator.state]  # of epochs 0, 1, ... as far as known

    @property
    def identity(self) -> str:
        return identity_of(self.patches, self.texts)

    def epoch(self, number: int, rank: int = 0, world: int = 1, start: int = 0):
        """The batches of one epoch from the one numbered `start`, of each this rank's part: tokens float32 [b, N, D_v],
        text_embeddings float32 [b, D], keys int64 [b], equal where two texts are the same. All ranks' parts, one after
        the other, are the batch of one process.
        """
        for known in range(len(self.starts), number + 1):
            for _ in self._draws(known - 1):
                pass
        for batch, text_embeddings, keys in islice(self._draws(number), start, None):
            own = np.array_split(np.arange(len(batch)), world)[rank]
            tokens = torch.from_numpy(np.asarray(self.patches[batch[own]])).float()
            yield tokens, text_embeddings[own], keys[own]

    def _draws(self, number: int):
        """Numbers of images [B], text_embeddings [B, D] and keys [B] of each batch of an epoch."""
        rng = np.random.default_rng()
        rng.bit_generator.state = self.starts[number]
        order = rng.permutation(self.params.pairs)[: self.steps * self.params.batch_size]
        for batch in np.sort(order.reshape(self.steps, -1)):
            yield batch, *self.texts.draw(rng, batch, self.params.noun_share)
        if number + 1 == len(self.starts):
            self.starts.append(rng.bit_generator.state)


def identity_of(patches: np.ndarray, texts: Texts) -> str:
    """A checksum of the texts and of 64 of the images' tokens."""
    digest = hashlib.sha256(json.dumps([patches.shape, texts.captions, texts.nouns]).encode())
    rows = np.linspace(0, len(patches) - 1, 64).astype(int)
    for array in (patches[rows], texts.caption_features, texts.noun_features):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def held_out(patches: np.ndarray, texts: Texts, params):
    """Whole batches of all pairs in order, each image with one of its captions."""
    rng, size = np.random.default_rng(0), min(params.batch_size, len(patches))
    for batch in np.arange(len(patches) // size * size).reshape(-1, size):
        yield torch.from_numpy(np.asarray(patches[batch])).float(), *texts.draw(rng, batch, 0.0)
