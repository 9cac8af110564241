"""Training batches of tokens and text embeddings that lie on the disk, computed once (pacl.features)."""

import hashlib
import json
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pacl.data import read_json


class Texts:
    """The texts of one split's images, and what is drawn from them at each step: a caption, or one of its nouns in
    one of the templates. Raises FileNotFoundError, or ValueError for files that are torn or of different runs.
    """

    def __init__(self, folder: Path, split: str):
        table = read_json(folder / "texts.json", split)
        self.caption_features = np.array(read_features(folder / "caption_features.npy", 2))
        self.noun_features = np.array(read_features(folder / "noun_features.npy", 3))
        counts = {"captions": len(self.caption_features), "nouns": len(self.noun_features)}
        if not _numbers_fit(table[split], counts):
            raise ValueError(
                f"{folder / 'texts.json'} doesn't go with the features beside it: remove {folder} and run the stage "
                "features again (`dvc repro features`)."
            )
        self.captions, self.nouns = table[split]["captions"], table[split]["nouns"]
        self.clip_identity = table.get("clip")

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, rng: np.random.Generator, images: np.ndarray, noun_share: float) -> tuple[Tensor, Tensor]:
        """One text for each image: embeddings [B, D] and keys [B], equal where two texts name the same caption or the
        same noun.

        noun_share: the probability of a noun prompt where the image's captions have a noun.
        """
        chosen = [self.draw_one(rng, image, noun_share) for image in images]
        features = np.stack([feature for feature, _ in chosen]).astype(np.float32)
        return torch.from_numpy(features), torch.tensor([key for _, key in chosen])

    def draw_one(self, rng, image: int, noun_share: float) -> tuple[np.ndarray, int]:
        as_noun, pick, template = rng.random(3)
        if as_noun < noun_share and self.nouns[image]:
            noun = self.nouns[image][int(pick * len(self.nouns[image]))]
            return self.noun_features[noun, int(template * self.noun_features.shape[1])], -1 - noun
        caption = self.captions[image][int(pick * len(self.captions[image]))]
        return self.caption_features[caption], caption


def read_features(path: Path, dimensions: int) -> np.ndarray:
    """An array of float16 that the stage features wrote, memory-mapped. Raises FileNotFoundError, or ValueError for one
    that is torn or of another kind.
    """
    try:
        array = np.load(path, mmap_mode="r")
        if array.dtype != np.float16 or array.ndim != dimensions:
            raise ValueError(f"{array.dtype} {list(array.shape)}")
        return array
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: run `dvc repro`, or the notebook before this one.") from None
    except Exception as error:  # NumPy's reader raises nearly every kind for a damaged header
        raise ValueError(
            f"{path} is no whole array of features ({error}): remove it and run `dvc repro features`."
        ) from None


def _numbers_fit(table, counts: dict[str, int]) -> bool:
    """Whether a split's table has as many rows of captions as of nouns, a caption in each, and numbers of texts that
    there are.
    """
    try:
        rows = {kind: table[kind] for kind in counts}
        numbers = all(type(n) is int and 0 <= n < counts[kind] for kind in rows for row in rows[kind] for n in row)
        return numbers and all(rows["captions"]) and len(rows["captions"]) == len(rows["nouns"])
    except (TypeError, KeyError):
        return False


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
