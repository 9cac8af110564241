"""Training batches from WebDataset shards, CLIP's tokens and text embeddings made on the fly (paper, section 4: some
30M pairs, whose tokens would take nine terabytes).

python -m pacl.training.streamed --profile PROFILE    (alone, or by torchrun in several processes)
"""

import argparse
import hashlib
import io
import itertools
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pacl.clip import load_clip
from pacl.clip.frozen import FrozenCLIP
from pacl.data.images import open_image
from pacl.data.prompts import nouns, templates
from pacl.runtime.config import load_params
from pacl.runtime.files import read_json
from pacl.sources.shards import good_and_bad
from pacl.training.train import train_profile

CHUNK = 32  # samples that a worker hands over at once
JUDGED = 1000  # samples, before their share of bad ones is judged


class StreamedPairs:
    """A source of training batches over shards, as pacl.training.cached.CachedPairs is one over features on the disk.

    Each epoch reads the shards in an order drawn anew and ends after `steps` batches. A process reads every world-th
    shard of that order, each of its workers a part of them, and none of its own pairs twice before all of them are
    read; where shards can't be dealt out equally, a process reads some of its own again before others' are through.
    clip: frozen. shards: a path -> the number of its pairs. params: with the sections prepare, features and train.
    workers: processes that read and decode, beside each training process.
    Raises ValueError where there are fewer pairs than train.pairs, or fewer shards than processes.
    """

    def __init__(self, clip: FrozenCLIP, shards: dict[str, int], params, *, workers: int = 4):
        self.clip, self.shards, self.params, self.workers = clip, shards, params, workers
        self.width, self.text_width, self.clip_identity = clip.width, clip.dim, clip.identity
        self.steps = params.train.pairs // params.train.batch_size
        self.skipped = Counter()  # bad samples by reason, since the source was made
        if sum(shards.values()) < params.train.pairs:
            raise ValueError(
                f"there are {sum(shards.values())} training pairs in {len(shards)} shards, but train.pairs asks for "
                f"{params.train.pairs}: download more, or lower it."
            )

    @property
    def identity(self) -> str:
        """A checksum of the shards' names and sizes in their order, of the CLIP that sees them and of what their texts
        become.
        """
        settings = self.params.features.templates, self.params.features.nouns, self.params.prepare.max_bad_share
        told = list(self.shards.items()), self.clip_identity, settings
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def epoch(
        self, number: int, rank: int = 0, world: int = 1, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This rank's part of each batch of an epoch: tokens float32 [b, N, D_v], text_embeddings float32 [b, D], keys
        int64 [b], equal where two texts are the same caption or the same noun. Batches before the one numbered `start`
        are read and decoded, but CLIP doesn't see them.

        Raises ValueError where too many samples are bad.
        """
        own = len(np.array_split(np.arange(self.params.train.batch_size), world)[rank])
        batches = batches_of(self._chunks(number, rank, world), own)
        for images, texts, keys in itertools.islice(batches, start, self.steps):
            parts = images.split(self.params.features.batch_size)
            tokens = torch.cat([self.clip.patch_features(part) for part in parts])
            yield tokens, self.clip.text_features(texts), keys

    def _chunks(self, number: int, rank: int, world: int) -> Iterator[tuple[Tensor, list[str], Tensor]]:
        """Decoded samples without end: when this rank's shards are read, they are read again in another order."""
        seen, bad = 0, Counter()
        for again in itertools.count():
            good = 0
            reader = self.reader(number, rank, world, again)
            for images, texts, keys, skipped in DataLoader(
                reader, batch_size=None, num_workers=min(self.workers, len(reader.shards))
            ):
                bad.update(skipped)
                self.skipped.update(skipped)
                seen += len(keys) + sum(skipped.values())
                good += len(keys)
                self._judge(seen, bad, JUDGED)
                if len(keys):
                    yield images, texts, keys
            self._judge(seen, bad, 1)
            if not good:
                raise ValueError(f"{next(iter(self.shards))} and the other shards hold no sample: download them again.")

    def reader(self, number: int, rank: int, world: int, again: int = 0) -> "Reader":
        """What a rank reads in an epoch."""
        if len(self.shards) < world:
            raise ValueError(f"there are {len(self.shards)} shards for {world} processes: start at most as many.")
        order = np.random.default_rng((self.params.train.seed, number)).permutation(len(self.shards))
        paths = list(self.shards)
        seed = (self.params.train.seed, number, again, rank)
        return Reader([paths[i] for i in order[rank::world]], seed, self.clip.preprocess, self.params)

    def _judge(self, seen: int, bad: Counter, least: int) -> None:
        if seen >= least and bad.total() > self.params.prepare.max_bad_share * seen:
            reasons = ", ".join(f"{count:,} x {reason}" for reason, count in bad.most_common())
            raise ValueError(
                f"{bad.total():,} of the first {seen:,} samples of the shards are bad ({reasons}): more than "
                f"prepare.max_bad_share ({self.params.prepare.max_bad_share}). Download them again, or raise it."
            )


class Reader(IterableDataset):
    """Shards as chunks (images [c, 3, H, W] as CLIP takes them, texts, keys [c], bad samples by reason), in a worker of
    a DataLoader those of every n-th shard.
    """

    def __init__(self, shards: list[str], seed: tuple, preprocess, params):
        self.shards, self.seed, self.preprocess = shards, seed, preprocess
        self.noun_share, self.tagger = params.train.noun_share, params.features.nouns
        self.templates = templates(params.features.templates)

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = np.random.default_rng((*self.seed, first))
        bad = Counter()
        chunk = []
        for sample in good_and_bad(self.shards[first::step], int(rng.integers(2**31)), bad):
            if sample:
                chunk += self.decoded(rng, *sample[1:], bad)
            if len(chunk) + bad.total() >= CHUNK:  # bad ones, too, or shards of nothing else would be read to their end
                yield self.handed_over(chunk, bad)
                chunk = []
        yield self.handed_over(chunk, bad)

    def decoded(self, rng: np.random.Generator, image: bytes, caption: str, bad: Counter) -> list[tuple]:
        """One sample's picture, text and key; none for a torn image, which is counted."""
        try:
            picture = self.preprocess(open_image(io.BytesIO(image)))
        except ValueError:
            bad["torn image"] += 1
            return []
        return [(picture, *self.draw(rng, caption))]

    def draw(self, rng: np.random.Generator, caption: str) -> tuple[str, int]:
        """The caption or, with probability noun_share, one of its nouns in one of the templates, and its key."""
        as_noun, pick, template = rng.random(3)
        found = nouns(caption, self.tagger) if as_noun < self.noun_share else ()
        if found:
            noun = found[int(pick * len(found))]
            return self.templates[int(template * len(self.templates))].format(noun), key_of(f"noun {noun}")
        return caption, key_of(f"caption {caption}")

    @staticmethod
    def handed_over(chunk: list, bad: Counter) -> tuple:
        pictures, texts, keys = zip(*chunk, strict=True) if chunk else ((), (), ())
        counted = dict(bad)  # no Counter: torch copies what a worker hands over by update, which adds up
        bad.clear()
        images = torch.stack(pictures) if pictures else torch.zeros(0)
        return images, list(texts), torch.tensor(keys, dtype=torch.long), counted


def key_of(text: str) -> int:
    """64 bits that equal texts share."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def batches_of(chunks: Iterator[tuple], size: int) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    """Chunks joined and cut into batches of `size`; an incomplete last batch is left out."""
    waiting, count = [], 0
    for chunk in chunks:
        waiting.append(chunk)
        count += len(chunk[1])
        while count >= size:
            images, texts, keys = zip(*waiting, strict=True)
            images, texts, keys = torch.cat(images), list(itertools.chain(*texts)), torch.cat(keys)
            yield images[:size], texts[:size], keys[:size]
            waiting, count = [(images[size:], texts[size:], keys[size:])], count - size


def open_stream(profile: str) -> StreamedPairs:
    """The source of a profile whose training pairs are shards, with its frozen CLIP; notebook 1 wrote their list."""
    params = load_params(profile, "prepare", "model", "features", "train")
    written = read_json(Path("data/prepared", profile, "train_shards.json"))
    model = params.model
    clip = load_clip(model.backbone, model.pretrained, tokens=model.tokens, dtype=model.dtype)
    return StreamedPairs(clip, dict(zip(written["shards"], written["pairs"], strict=True)), params)


def train_streamed(profile: str) -> None:
    """Trains on a profile's shards, see pacl.training.train.train_profile."""
    train_profile(profile, open_stream)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m pacl.training.streamed", description="Trains on a profile's shards."
    )
    parser.add_argument("--profile", default="paper", help="a section of params.yaml whose pairs are shards")
    try:
        train_streamed(parser.parse_args().profile)
    except (ValueError, FileNotFoundError, FloatingPointError, OSError) as error:
        sys.exit(str(error))
