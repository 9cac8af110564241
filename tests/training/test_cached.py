"""Batches of cached pairs: each image once an epoch, the same for any number of processes; held-out captions."""

import numpy as np
import pytest
import torch
from helpers.small_training import D, D_v, N, params, random_pairs, texts_of

from pacl.clip.features import read_features
from pacl.training.cached import CachedPairs, held_out
from speed.measuring import held


def keys_of(batches):
    return [batch[2].tolist() for batch in batches]


def test_an_epoch_has_each_image_once_in_an_order_of_its_own(tmp_path):
    patches, texts = random_pairs(tmp_path, 24)
    source = CachedPairs(patches, texts, params(pairs=20, batch_size=6))
    assert (source.steps, source.width, source.text_width) == (3, D_v, D)
    epochs = [list(source.batches(number)) for number in (0, 1, 0)]
    keys = [keys_of(epoch) for epoch in epochs]
    assert keys[0] == keys[2] != keys[1] and keys[0] == np.sort(keys[0]).tolist()
    for epoch in keys:
        assert len({key for batch in epoch for key in batch}) == 18 and max(map(max, epoch)) < 20
    tokens, text, numbers = epochs[1][2]
    assert tokens.dtype == text.dtype == torch.float32 and numbers.dtype == torch.int64
    assert np.array_equal(tokens.numpy(), patches[numbers]) and np.array_equal(text, texts.caption_features[numbers])
    other = CachedPairs(patches, texts, params(pairs=20, batch_size=6, seed=1))
    assert keys_of(other.batches(0)) != keys[0]


def test_later_epochs_do_not_depend_on_what_was_read_before(tmp_path):
    nouns = np.random.default_rng(1).normal(size=(1, 3, D)).astype(np.float16)
    patches, _ = random_pairs(tmp_path / "unused", 20)
    texts = texts_of(np.random.default_rng(0).normal(size=(20, D)), range(20), tmp_path, nouns=nouns)
    settings = params(pairs=20, batch_size=6, noun_share=0.5)
    in_order, at_once = (CachedPairs(patches, texts, settings) for _ in range(2))
    for _ in range(3):
        next(in_order.batches(0))  # left after one batch
        list(in_order.batches(0))
    expected = [list(in_order.batches(number)) for number in range(4)][3]
    for found, wanted in zip(at_once.batches(3), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert len({key for batch in expected for key in batch[2].tolist() if key < 0}) == 1  # noun prompts were drawn


def test_an_epoch_from_a_later_batch_on_is_the_rest_of_it(tmp_path):
    source = CachedPairs(*random_pairs(tmp_path, 20), params(pairs=20, batch_size=5))
    rests = [keys_of(source.batches(1, start=start)) for start in range(5)]
    assert rests == [rests[0][start:] for start in range(5)] and len(rests[0]) == 4


def test_an_epoch_holds_batches_of_tokens_not_all_that_it_has_read(tmp_path):
    """200 MB of tokens, in a sparse file."""
    np.lib.format.open_memmap(tmp_path / "patches.npy", "w+", np.float16, (1000, 200, 500))
    patches, (_, texts) = read_features(tmp_path / "patches.npy", 3), random_pairs(tmp_path, 1000)
    source = CachedPairs(patches, texts, params(pairs=1000, batch_size=10))
    next(source.batches(0))
    assert held(lambda: sum(len(keys) for _, _, keys in source.batches(0))) < 0.05


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_ranks_parts_are_the_whole_batch(world_size, tmp_path):
    source = CachedPairs(*random_pairs(tmp_path, 20), params(pairs=20, batch_size=6))
    whole = list(source.batches(1))
    parts = zip(*(source.batches(1, rank, world_size) for rank in range(world_size)), strict=True)
    for batch, of_ranks in zip(whole, parts, strict=True):
        for tensor, pieces in zip(batch, zip(*of_ranks, strict=True), strict=True):
            assert torch.equal(torch.cat(pieces), tensor)


def test_other_data_have_another_identity(tmp_path):
    def source(count=20, image=19, token=0.0, caption=0.0, noun=0.0, **numbers):
        patches = np.zeros((20, N, D_v), np.float16)
        patches[image, -1, -1] = token
        texts = texts_of(np.full((20, D), caption), range(20), tmp_path, np.full((1, 2, D), noun, np.float16))
        for name, rows in numbers.items():
            setattr(texts, name, rows)
        return CachedPairs(patches[:count], texts, params(pairs=10, batch_size=5))

    others = [dict(count=19), dict(token=1.0), dict(image=0, token=1.0), dict(caption=1.0), dict(noun=1.0)]
    others += [dict(captions=[[0]] * 20), dict(nouns=[[]] * 20)]
    identities = [source(**other).identity for other in ({}, *others)]
    assert len(set(identities)) == len(identities) and source().identity == identities[0]


def test_too_few_pairs_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="there are 8 training pairs, but train.pairs asks for 32: prepare more"):
        CachedPairs(*random_pairs(tmp_path, 8), params())


def test_held_out_pairs_have_only_captions_the_same_ones_for_every_seed(tmp_path):
    """Every image has a noun too, and a run that draws nouns is still judged by captions."""
    patches, captions = np.arange(40, dtype=np.float16).reshape(40, 1, 1), np.eye(2, D, dtype=np.float16)
    texts = texts_of(captions, [0] * 40, tmp_path, nouns=np.full((1, 1, D), 7, np.float16))
    texts.captions = [[0, 1]] * 40
    drawn = []
    for seed in (0, 0, 1):
        batches = list(held_out(patches, texts, params(batch_size=8, pairs=40, noun_share=0.5, seed=seed)))
        assert [len(batch) for batch, _, _ in batches] == [8] * 5
        tokens, features, keys = (torch.cat(part) for part in zip(*batches, strict=True))
        assert tokens.flatten().tolist() == list(range(40)) and np.array_equal(features, captions[keys])
        drawn.append(keys.tolist())
    assert drawn[0] == drawn[1] == drawn[2] and set(drawn[0]) == {0, 1}
