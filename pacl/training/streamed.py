"""Training batches from WebDataset shards; CLIP computes tokens and text embeddings on the fly (paper, section 4: some
30M pairs, whose tokens would take nine terabytes).
"""

import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pacl.clip.features import draw_text
from pacl.clip.frozen import FrozenCLIP, load_clip_of
from pacl.data.images import open_image
from pacl.data.prompts import nouns, templates
from pacl.runtime.config import load_params
from pacl.runtime.files import checksum, read_json
from pacl.runtime.params import Features, Train
from pacl.sources.shards import good_and_bad

CHUNK = 32  # samples that a worker hands over at once
JUDGED = 1000  # samples to read before their share of bad ones is judged


class StreamedPairs:
    """A source of training batches over shards, as pacl.training.cached.CachedPairs is one over cached features.

    Each epoch reads the shards in a new order and ends after `steps` batches. A process reads every world_size-th shard
    of that order, each of its workers a part of them, and none of its own pairs twice before it has read all of them.
    If shards don't divide evenly, a process reads some of its pairs again before others have read all of theirs.
    clip: frozen. shards: path -> number of pairs. max_bad_share: of the samples. workers: processes that read and
    decode, for each training process.
    Raises ValueError if there are fewer pairs than train.pairs, or fewer shards than processes.
    """

    def __init__(
        self,
        clip: FrozenCLIP,
        shards: dict[str, int],
        settings: Train,
        features: Features,
        max_bad_share: float,
        *,
        workers: int = 4,
    ):
        self.clip, self.shards, self.settings, self.features = clip, shards, settings, features
        self.max_bad_share, self.workers = max_bad_share, workers
        self.width, self.text_width, self.clip_identity = clip.width, clip.dim, clip.identity
        self.steps = settings.pairs // settings.batch_size
        self.skipped = Counter()  # bad samples by reason, since the source was made
        if sum(shards.values()) < settings.pairs:
            raise ValueError(
                f"there are {sum(shards.values())} training pairs in {len(shards)} shards, but train.pairs asks for "
                f"{settings.pairs}: download more, or lower it."
            )

    @property
    def identity(self) -> str:
        """A checksum of the shards' names and sizes in order, of the CLIP that sees them and of how texts are made."""
        texts = self.features.templates, self.features.nouns, self.max_bad_share
        return checksum(repr((list(self.shards.items()), self.clip_identity, texts)).encode())

    def batches(self, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """This rank's part of an epoch's batches: tokens float32 [b, N, D_v], text_embeddings float32 [b, D], keys
        int64 [b], equal for the same caption or noun. Batches before number `start` are read and decoded, but CLIP
        doesn't see them.

        Raises ValueError if too many samples are bad.
        """
        own = len(np.array_split(np.arange(self.settings.batch_size), world_size)[rank])
        sizes = [len(part) for part in torch.arange(own).split(self.features.batch_size)]
        pieces = pieces_of(self._chunks(epoch, rank, world_size), itertools.cycle(sizes))
        h, w = self.clip.grid(self.clip.image_size, self.clip.image_size)
        for number in range(self.steps):
            tokens = torch.empty(own if number >= start else 0, h * w, self.width, device=self.clip.device)
            texts, keys = [], []
            for images, own_texts, own_keys in itertools.islice(pieces, len(sizes)):  # never all of a batch's images
                if number >= start:
                    tokens[len(texts) : len(texts) + len(images)] = self.clip.patch_features(images)
                texts += own_texts
                keys.append(own_keys)
            if number >= start:
                yield tokens, self.clip.text_features(texts), torch.cat(keys)
            del tokens  # or it would be held while the next batch's are made

    def _chunks(self, epoch: int, rank: int, world_size: int) -> Iterator[tuple[Tensor, list[str], Tensor]]:
        """Decoded samples without end: once this rank's shards are read, they are read again in another order."""
        seen, bad = 0, Counter()
        for again in itertools.count():
            good = 0
            reader = self.reader(epoch, rank, world_size, again)
            workers = min(self.workers, len(reader.shards))
            for images, texts, keys, skipped in DataLoader(reader, batch_size=None, num_workers=workers):
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

    def reader(self, epoch: int, rank: int, world_size: int, again: int = 0) -> "Reader":
        """The reader of a rank in an epoch."""
        if len(self.shards) < world_size:
            raise ValueError(f"there are {len(self.shards)} shards for {world_size} processes: start at most as many.")
        seed, paths = self.settings.seed, list(self.shards)
        order = np.random.default_rng((seed, epoch)).permutation(len(paths))[rank::world_size]
        own, share = [paths[i] for i in order], self.settings.noun_share
        return Reader(own, (seed, epoch, again, rank), self.clip.preprocess, share, self.features)

    def _judge(self, seen: int, bad: Counter, least: int) -> None:
        if seen >= least and bad.total() > self.max_bad_share * seen:
            reasons = ", ".join(f"{count:,} x {reason}" for reason, count in bad.most_common())
            raise ValueError(
                f"{bad.total():,} of the first {seen:,} samples of the shards are bad ({reasons}): more than "
                f"prepare.max_bad_share ({self.max_bad_share}). Download them again, or raise it."
            )


class Reader(IterableDataset):
    """Shards as chunks (images [c, 3, H, W] as CLIP takes them, texts, keys [c], bad samples by reason). In a worker of
    a DataLoader, every n-th shard.
    """

    def __init__(self, shards: list[str], seed: tuple, preprocess, noun_share: float, features: Features):
        self.shards, self.seed, self.preprocess, self.noun_share = shards, seed, preprocess, noun_share
        self.model, self.templates = features.nouns, templates(features.templates)

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        rng = np.random.default_rng((*self.seed, first))
        bad, chunk = Counter(), []
        for sample in good_and_bad(self.shards[first::step], int(rng.integers(2**31)), bad):
            if sample:
                chunk += decoded(self.preprocess, *sample[1:], bad)
            if len(chunk) + bad.total() >= CHUNK:  # counts bad ones too, so that bad shards aren't read to their end
                yield self.hand_over(rng, chunk, bad)
                chunk = []
        yield self.hand_over(rng, chunk, bad)

    def hand_over(self, rng: np.random.Generator, chunk: list[tuple[Tensor, str]], bad: Counter) -> tuple:
        pictures, captions = zip(*chunk, strict=True) if chunk else ((), ())
        texts, keys = self.draw(rng, captions)
        counted = dict(bad)  # not a Counter: torch would copy it by its update, which adds up
        bad.clear()
        images = torch.stack(pictures) if pictures else torch.zeros(0)
        return images, texts, torch.tensor(keys, dtype=torch.long), counted

    def draw(self, rng: np.random.Generator, captions: Sequence[str]) -> tuple[list[str], list[int]]:
        """Each caption or, with probability noun_share, one of its nouns in one of the templates; and their keys."""
        texts, keys = [], []
        found = nouns(captions, self.model) if self.noun_share else [()] * len(captions)
        for caption, its_nouns in zip(captions, found, strict=True):
            text, template = draw_text(rng, self.noun_share, [caption], its_nouns, self.templates)
            texts.append(template.format(text) if template else text)
            keys.append(key_of(f"noun {text}" if template else f"caption {text}"))
        return texts, keys


def decoded(preprocess, image: bytes, caption: str, bad: Counter) -> list[tuple[Tensor, str]]:
    """One sample's picture, as CLIP takes it, and caption; none for a corrupt image, which is counted."""
    try:
        return [(preprocess(open_image(io.BytesIO(image))), caption)]
    except ValueError:
        bad["corrupt image"] += 1
        return []


def key_of(text: str) -> int:
    """64 bits, equal for equal texts."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def pieces_of(chunks: Iterator[tuple], sizes: Iterator[int]) -> Iterator[tuple[Tensor, list[str], Tensor]]:
    """Chunks joined and split into pieces of these sizes in turn; drops an incomplete last piece."""
    waiting, count, size = [], 0, next(sizes)
    for chunk in chunks:
        waiting.append(chunk)
        count += len(chunk[1])
        while count >= size:
            images, texts, keys = zip(*waiting, strict=True)
            images, texts, keys = torch.cat(images), list(itertools.chain(*texts)), torch.cat(keys)
            yield images[:size], texts[:size], keys[:size]
            waiting, count = [(images[size:], texts[size:], keys[size:])], count - size
            size = next(sizes)


def open_stream(profile: str, shards: Path) -> StreamedPairs:
    """The source of a profile whose training pairs are shards, with its frozen CLIP. shards: the list of the shards,
    train_shards.json, that the stage prepare wrote.
    """
    params = load_params(profile, "prepare", "model", "features", "train")
    written = read_json(shards, "shards", "pairs")
    counts = dict(zip(written["shards"], written["pairs"], strict=True))
    return StreamedPairs(
        load_clip_of(params.model), counts, params.train, params.features, params.prepare.max_bad_share
    )
