"""Pairs streamed from shards: every pair once, over ranks and workers; CLIP's own features; bad samples counted."""

import io
import itertools
import re
from types import SimpleNamespace

import pytest
import torch
from helpers.small_shards import jpeg, write_shard
from helpers.small_training import params
from PIL import Image
from torch.utils.data import DataLoader

from pacl.clip import load_clip
from pacl.data.prompts import ENGLISH, templates
from pacl.runtime.params import Features
from pacl.training.streamed import StreamedPairs, key_of, pieces_of
from speed.measuring import held

PAIRS = 4  # in each shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Seven shards of four pairs, captions "caption 0" to "caption 63"."""
    folder = tmp_path_factory.mktemp("shards")
    return {str(write_shard(folder / f"{number}.tar", 10 * number, PAIRS)): PAIRS for number in range(7)}


@pytest.fixture
def keys_of_all(shards):
    return sorted(key_of(f"caption caption {10 * shard + i}") for shard in range(len(shards)) for i in range(PAIRS))


def streamed(clip, shards, pairs=28, batch_size=7, workers=0, max_bad_share=0.1, seed=5, noun_share=0.0, **texts):
    settings = params(pairs=pairs, batch_size=batch_size, seed=seed, noun_share=noun_share)
    features = Features(**{"batch_size": 3, "templates": "seven", "nouns": ENGLISH} | texts)
    return StreamedPairs(clip, shards, settings, features, max_bad_share, workers=workers)


def one_shard(folder, count, **changes):
    return {str(write_shard(folder / "0.tar", 0, count, **changes)): count}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_and_workers_share_the_shards_and_none_is_read_twice_or_missed(
    tiny_clip, shards, keys_of_all, world_size
):
    source, read = streamed(tiny_clip, shards), []
    for rank in range(world_size):
        for _, texts, keys, _ in DataLoader(source.reader(3, rank, world_size), batch_size=None, num_workers=2):
            assert len(texts) == len(keys)
            read += keys.tolist()
    assert sorted(read) == keys_of_all


def test_an_epoch_of_one_process_has_every_pair_once_with_clips_own_features(tiny_clip, shards, keys_of_all):
    source = streamed(tiny_clip, shards)
    batches = list(source.batches(0))
    assert source.steps == len(batches) == 4
    assert sorted(key for _, _, keys in batches for key in keys.tolist()) == keys_of_all
    for tokens, texts, keys in batches:
        assert tokens.shape == (7, 16, source.width) and tokens.dtype == torch.float32
        assert texts.shape == (7, source.text_width) and keys.dtype == torch.int64
    tokens, texts, keys = batches[0]
    captions = {key_of(f"caption caption {n}"): n for n in range(70)}
    for i, key in enumerate(keys.tolist()):
        number = captions[key]
        image = tiny_clip.preprocess(Image.open(io.BytesIO(jpeg(number))).convert("RGB"))
        torch.testing.assert_close(tokens[i], tiny_clip.patch_features(image[None])[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(texts[i], tiny_clip.text_features([f"caption {number}"])[0], atol=1e-5, rtol=1e-5)


def test_ranks_have_their_parts_of_each_batch(tiny_clip, shards):
    source = streamed(tiny_clip, shards, pairs=28, batch_size=8)
    sizes = [[len(keys) for _, _, keys in source.batches(0, rank, 3)] for rank in range(3)]
    assert sizes == [[3, 3, 3], [3, 3, 3], [2, 2, 2]]
    with pytest.raises(ValueError, match="7 shards for 8 processes"):
        next(source.batches(0, 7, 8))


def test_shards_are_read_in_an_order_of_each_epochs_own(tiny_clip, shards):
    source = streamed(tiny_clip, shards)
    first, again, second = ([k for _, _, keys in source.batches(n) for k in keys.tolist()] for n in (0, 0, 1))
    assert first == again != second and sorted(first) == sorted(second)
    orders = [tuple(source.reader(number, 0, 1).shards) for number in range(4)]
    assert len(set(orders)) == 4 and all(sorted(order) == sorted(shards) for order in orders)
    for number in range(4):  # the ranks deal out the order of one process
        assert sorted(sum((source.reader(number, rank, 3).shards for rank in range(3)), [])) == sorted(shards)
        assert tuple(source.reader(number, 1, 3).shards) == orders[number][1::3]
    assert [len(source.reader(0, rank, 7).shards) for rank in range(7)] == [1] * 7  # as many processes as shards
    assert orders[0] != tuple(streamed(tiny_clip, shards, seed=6).reader(0, 0, 1).shards)


def test_each_seed_epoch_reading_worker_and_rank_shuffles_a_shard_differently(tiny_clip, tmp_path, monkeypatch):
    """Two shards of the same pairs, one for each of two workers, or of two ranks."""
    copies = {str(write_shard(tmp_path / f"{name}.tar", 0, 8)): 8 for name in "ab"}

    def order(seed=5, number=0, again=0, worker=0):
        monkeypatch.setattr("pacl.training.streamed.get_worker_info", lambda: SimpleNamespace(id=worker, num_workers=2))
        (chunk,) = streamed(tiny_clip, copies, 16, 8, seed=seed).reader(number, 0, 1, again)
        return tuple(chunk[1])

    orders = {order(), order(seed=6), order(number=1), order(again=1), order(worker=1)}
    assert len(orders) == 5 and order() in orders and all(len(set(texts)) == 8 for texts in orders)
    monkeypatch.undo()
    source = streamed(tiny_clip, copies, 16, 8)
    first, again, second = ([texts for _, texts, _, _ in source.reader(0, rank, 2)] for rank in (0, 0, 1))
    assert first == again != second and sorted(first[0]) == sorted(second[0]) == [f"caption {i}" for i in range(8)]


def test_a_batch_is_encoded_piece_by_piece_and_its_pictures_are_never_held_together(tiny_clip, tmp_path):
    """What a batch takes beyond its tokens: a few pieces' pictures, not those of 400 pairs, 12 KB each."""
    source = streamed(tiny_clip, one_shard(tmp_path, 400), 400, 400)
    list(streamed(tiny_clip, one_shard(tmp_path, 400), 400, 4).batches(0, start=99))  # one-time allocations
    taken = held(lambda: next(source.batches(0)))
    pictures, tokens = (400 * size * 4 / 1e9 for size in (3 * 32 * 32, 16 * source.width))
    assert taken < tokens + pictures / 2


def test_batches_before_the_start_are_never_shown_to_clip(tiny_clip, shards, monkeypatch):
    source, seen = streamed(tiny_clip, shards), []
    whole = list(source.batches(2))
    for name in ("patch_features", "text_features"):
        encode = getattr(tiny_clip, name)
        monkeypatch.setattr(tiny_clip, name, lambda items, encode=encode: seen.append(len(items)) or encode(items))
    rest = list(source.batches(2, start=3))
    assert seen == [3, 3, 1, 7]  # one batch of 7, images in threes
    for found, expected in zip(rest, whole[3:], strict=True):
        assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))


def test_nouns_stand_in_templates_and_share_a_key(tiny_clip, tmp_path):
    words = {"000000000.txt": b"a dog", "000000001.txt": b"a dog on grass", "000000002.txt": b"untitled"}
    shard = one_shard(tmp_path, 3, **words)
    drawn = set()
    for number in range(6):
        for _, texts, keys, _ in streamed(tiny_clip, shard, 3, 3, noun_share=1.0).reader(number, 0, 1):
            drawn |= set(zip(texts, keys.tolist(), strict=True))
    expected = {(t.format(noun), key_of(f"noun {noun}")) for t in templates("seven") for noun in ("dog", "grass")}
    assert drawn - {("untitled", key_of("caption untitled"))} < expected
    assert {key for _, key in drawn} == {key_of("noun dog"), key_of("noun grass"), key_of("caption untitled")}


def test_photos_of_any_kind_are_read_and_corrupt_ones_counted(tiny_clip, tmp_path):
    """Greyscale, CMYK, rotated by EXIF, a PNG with alpha; a text and half a JPEG are not photos."""
    exif = Image.Exif()
    exif[0x0112] = 6
    png = io.BytesIO()
    Image.new("RGBA", (40, 32), (9, 9, 9, 100)).save(png, "PNG")
    kinds = [jpeg(mode="L"), jpeg(mode="CMYK"), jpeg(exif=exif), png.getvalue(), b"no image", jpeg()[:200]]
    shard = one_shard(tmp_path, 6, **{f"{i:09d}.jpg": data for i, data in enumerate(kinds)})
    (batch,) = streamed(tiny_clip, shard, 4, 4, max_bad_share=0.5).batches(0)
    assert sorted(batch[2].tolist()) == sorted(key_of(f"caption caption {i}") for i in range(4))
    assert batch[0].isfinite().all()
    strict = streamed(tiny_clip, shard, 6, 6, max_bad_share=0.2)
    with pytest.raises(ValueError, match=r"2 of the first 6 samples .* \(2 x corrupt image\): more than prepare.max_b"):
        list(strict.batches(0))
    assert strict.skipped == {"corrupt image": 2}


def test_bad_samples_are_made_up_for_by_a_second_reading(tiny_clip, tmp_path, monkeypatch):
    shard = one_shard(tmp_path, 6, **{"000000005.jpg": b"no image"})
    source, readings = streamed(tiny_clip, shard, 6, 3, max_bad_share=0.5), []
    reader = source.reader
    monkeypatch.setattr(source, "reader", lambda *which: readings.append(which) or reader(*which))
    batches = list(source.batches(0))
    assert readings == [(0, 0, 1, 0), (0, 0, 1, 1)]  # the second one in an order of its own
    assert [len(keys) for _, _, keys in batches] == [3, 3]


def test_bad_samples_are_counted_once_and_their_greatest_share_is_allowed(tiny_clip, tmp_path, monkeypatch):
    """Eight samples, two of them bad, in chunks of two."""
    monkeypatch.setattr("pacl.training.streamed.CHUNK", 2)
    shard = one_shard(tmp_path, 8, **{f"00000000{number}.jpg": b"no image" for number in (0, 5)})
    source = streamed(tiny_clip, shard, 6, 3, max_bad_share=0.25)
    assert len(list(source.batches(0))) == 2 and source.skipped["corrupt image"] <= 2
    source = streamed(tiny_clip, shard, 8, 8, max_bad_share=0.25)
    (batch,) = source.batches(0)
    assert len(batch[2]) == 8 and 2 <= source.skipped["corrupt image"] <= 4


SECONDS, BUT_ONE = range(0, 16, 2), range(1, 16)


@pytest.mark.parametrize(
    "judged, numbers, bad",
    [
        (6, SECONDS, {"jpg": b"no image"}),
        (100, SECONDS, {"jpg": b"no image"}),
        (6, BUT_ONE, {"txt": b" ", "json": b"{}"}),
        (6, BUT_ONE, {"txt": None, "json": None}),
    ],
)
def test_bad_shards_are_given_up_as_soon_as_enough_samples_are_judged(
    tiny_clip, tmp_path, monkeypatch, judged, numbers, bad
):
    """Of sixteen samples, every second is bad, or all but the first; each one is handed over alone."""
    monkeypatch.setattr("pacl.training.streamed.JUDGED", judged)
    monkeypatch.setattr("pacl.training.streamed.CHUNK", 1)
    changes = {f"{number:09d}.{suffix}": data for number in numbers for suffix, data in bad.items()}
    with pytest.raises(ValueError, match="samples of the shards are bad") as refused:
        list(streamed(tiny_clip, one_shard(tmp_path, 16, **changes), 16, 16).batches(0))
    found, seen = map(int, re.findall(r"\d+", str(refused.value))[:2])
    assert judged <= seen < 10 if judged < 16 else (found, seen) == (8, 16)


@pytest.mark.parametrize("count, changes", [(1, {"000000000.jpg": b"no image"}), (0, {})], ids=["only bad", "empty"])
def test_shards_without_a_good_sample_are_named(tiny_clip, tmp_path, count, changes):
    shard = dict.fromkeys(one_shard(tmp_path, count, **changes), 6)
    with pytest.raises(ValueError, match="0.tar and the other shards hold no sample"):
        list(streamed(tiny_clip, shard, 6, 6, max_bad_share=1.0).batches(0))
    with pytest.raises(ValueError, match="6 training pairs in 1 shards, but train.pairs asks for 7"):
        streamed(tiny_clip, shard, 7, 7)


def test_the_data_are_told_from_other_data_another_clips_and_those_with_other_texts(tiny_clip, tiny_folder, shards):
    fewer, turned = dict(list(shards.items())[:6]), dict(reversed(shards.items()))  # whose epochs have other orders
    others = [streamed(tiny_clip, fewer, 24), streamed(tiny_clip, turned)]
    others += [streamed(tiny_clip, shards | {min(shards): PAIRS + 1})]
    others += [streamed(load_clip("tiny", tiny_folder, tokens="value"), shards)]
    changes = {"templates": "imagenet80"}, {"nouns": "en_core_web_md"}, {"max_bad_share": 0.5}
    others += [streamed(tiny_clip, shards, **change) for change in changes]
    identities = [source.identity for source in (streamed(tiny_clip, shards), *others)]
    assert len(set(identities)) == len(identities) and streamed(tiny_clip, shards).identity == identities[0]


def test_keys_have_64_bits():
    """Of so many 32-bit keys, some would be equal."""
    assert len({key_of(f"caption {number}") for number in range(200_000)}) == 200_000


def test_chunks_become_batches():
    chunks = [
        (torch.arange(4.0)[:, None], list("abcd"), torch.arange(4)),
        (torch.arange(4.0, 9)[:, None], list("efghi"), torch.arange(4, 9)),
    ]
    batches = list(pieces_of(iter(chunks), itertools.repeat(3)))
    assert [texts for _, texts, _ in batches] == [["a", "b", "c"], ["d", "e", "f"], ["g", "h", "i"]]
    assert torch.cat([images for images, _, _ in batches])[:, 0].tolist() == list(range(9))
    assert [texts for _, texts, _ in pieces_of(iter(chunks), itertools.repeat(5))] == [list("abcde")]


def test_real_shards_are_trained_on(real_data, tiny_clip):
    paths = sorted((real_data / "webdataset").glob("*.tar"))
    source = streamed(tiny_clip, {str(path): 60 for path in paths}, 120, 40, workers=2, noun_share=0.5)
    batches = list(source.batches(0))
    assert [tokens.shape for tokens, _, _ in batches] == [(40, 16, 32)] * 3
    assert all(tokens.isfinite().all() and texts.isfinite().all() for tokens, texts, _ in batches)
