"""WebDataset shards: what is whole, what is skipped and counted, when it is too much."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from helpers.folders import write_voc
from helpers.small_shards import jpeg, write_shard

from pacl.data.prepared import read_pairs
from pacl.runtime.files import read_json
from pacl.runtime.params import Prepare
from pacl.sources.prepare import prepare
from pacl.sources.shards import caption_of, find_shards, samples, survey


def test_all_samples_in_the_order_of_the_shards(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"cc3m/{number:05d}.tar", 10 * number, 3)
    shards = find_shards(tmp_path)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    assert survey(shards, 0.0) == ([3, 3], "")
    found = list(samples(shards))
    assert [caption for _, _, caption in found] == [f"caption {i}" for i in (0, 1, 2, 10, 11, 12)]
    assert all(image == jpeg(int(key)) for key, image, _ in found)


def test_shards_come_by_name(tmp_path):
    for number in reversed(range(30)):
        (tmp_path / f"{number:05d}.tar").touch()
    assert [path.name for path in find_shards(tmp_path)] == [f"{number:05d}.tar" for number in range(30)]


def test_suffixes_in_capitals_are_read_and_counted(tmp_path):
    names = {f"000000000.{suffix}": None for suffix in ("jpg", "txt", "json")}
    shard = write_shard(tmp_path / "0.tar", 0, 1, **names, **{"a.JPG": jpeg(), "a.TXT": b"a caption"})
    assert survey([shard], 0.0) == ([1], "") and list(samples([shard])) == [("a", jpeg(), "a caption")]


def test_a_member_without_a_suffix_belongs_to_no_sample(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 2, README=b"two photos")
    assert survey([shard], 0.0) == ([2], "")
    bad = Counter()
    assert len(list(samples([shard], bad=bad))) == 2 and not bad


def test_a_seed_shuffles_and_repeats(tmp_path):
    shards = [write_shard(tmp_path / f"{number}.tar", 10 * number, 10) for number in range(3)]
    orders = [[key for key, *_ in samples(shards, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{i:09d}" for i in range(30)]


def test_shards_are_shuffled_as_wholes_too(tmp_path, monkeypatch):
    """Far more pairs than are mixed at a time must not come in the order of their shards."""
    monkeypatch.setattr("pacl.sources.shards.BUFFER", 1)
    shards = [write_shard(tmp_path / f"{number}.tar", 10 * number, 2) for number in range(4)]
    orders = {tuple(int(key) for key, *_ in samples(shards, seed=seed)) for seed in range(4)}
    assert len(orders) > 1 and {tuple(sorted(order)) for order in orders} == {(0, 1, 10, 11, 20, 21, 30, 31)}


def test_a_photo_that_a_shard_has_twice_is_counted_as_a_fault_of_the_shard(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 3)
    with tarfile.open(shard, "a") as tar:
        for name in ("000000003.jpg", "000000003.jpg", "000000003.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            tar.addfile(member, io.BytesIO(jpeg()))
    bad = Counter()
    found = [key for key, *_ in samples([shard], bad=bad)]
    assert found[:2] == ["000000000", "000000001"] and bad["torn shard"] == 1


def test_samples_that_miss_a_part_are_skipped_and_counted(tmp_path):
    """The caption may also stand in the json alone; one of spaces is none."""
    changes = {
        "000000000.txt": None,
        "000000001.jpg": None,
        "000000002.txt": b" \n",
        "000000003.txt": None,
        "000000003.json": None,
    }
    shard = write_shard(tmp_path / "0.tar", 0, 5, **changes)
    bad = Counter()
    assert [caption for *_, caption in samples([shard], bad=bad)] == ["caption 0", "caption 4"]
    assert bad == {"no image": 1, "no caption": 2}
    counts, note = survey([shard], 0.5)
    assert counts == [3]  # names only: a caption of spaces is seen when it is read
    assert note == f"2 of 5 samples in the shards are torn or miss a part, the first in {shard}; they are skipped."
    assert survey([shard], 0.4) == (counts, note)  # as many as are allowed
    with pytest.raises(ValueError, match=r"2 of 5 samples .* more than prepare.max_bad_share \(0.3\)"):
        survey([shard], 0.3)


def test_half_a_character_makes_no_caption():
    assert caption_of({"json": b'{"caption": "a \\ud83d dog"}'}) == ""
    assert caption_of({"json": b'{"caption": " a  dog"}'}) == "a dog"
    assert caption_of({"json": 100_000 * b"["}) == ""


@pytest.mark.parametrize("left", [0.4, 0.75])
def test_a_shard_cut_in_the_middle_gives_what_is_whole(tmp_path, left):
    whole, torn = (write_shard(tmp_path / f"{number}.tar", 10 * number, 10) for number in range(2))
    torn.write_bytes(torn.read_bytes()[: int(left * torn.stat().st_size)])
    counts, note = survey([torn, whole], 0.5)
    assert 0 < counts[0] < 10 and counts[1] == 10
    assert note.startswith(f"1 of {sum(counts) + 1} samples") and f"the first in {torn}" in note
    bad = Counter()
    captions = [caption for *_, caption in samples([torn, whole], bad=bad)]
    assert captions == [f"caption {i}" for i in (*range(10, 10 + counts[0]), *range(10))]
    assert bad["torn shard"] >= 1


def test_a_sample_cut_in_its_photo_costs_no_other(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 5)
    with tarfile.open(shard) as tar:
        end = tar.getmember("000000004.jpg").offset_data + 10
    shard.write_bytes(shard.read_bytes()[:end])
    assert survey([shard], 0.5)[0] == [4] == [len(list(samples([shard])))]


def test_shards_that_hold_nothing_are_named(tmp_path):
    with pytest.raises(ValueError, match="^0 of 0 samples .* the first in .*/0.tar: more than"):
        survey([write_shard(tmp_path / "0.tar", 0, 0)], 1.0)


def test_what_is_no_shard_is_named(tmp_path):
    (tmp_path / "0.tar").write_text("this is no archive")
    with pytest.raises(ValueError, match="0.tar: more than prepare.max_bad_share"):
        survey([tmp_path / "0.tar"], 1.0)


def settings(raw, **changes):
    values = {"source": "webdataset", "raw": str(raw), "seed": 0, "train_pairs": 10, "validation_scenes": 6}
    values |= {"test_scenes": None, "benchmarks": ["voc20"], "classification_sets": [], "classification_images": None}
    return Prepare.model_validate(values | {"max_bad_share": 0.1} | changes)


def test_whole_shards_are_held_out_and_their_first_pairs_unpacked(tmp_path):
    for number in range(5):
        write_shard(tmp_path / f"raw/shards/cc12m/{number:05d}.tar", 10 * number, 4)
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    note = prepare(tmp_path / "out", settings(tmp_path / "raw"))
    written = read_json(tmp_path / "out/train_shards.json")
    assert written["pairs"] == [4, 4, 4] and "PASCAL VOC" in note and "skipped" not in note
    images, captions = read_pairs(tmp_path / "out", "validation")
    assert len(images) == len(captions) == 6
    held_out = {f"{int(text.split()[1]) // 10:05d}.tar" for (text,) in captions}
    assert len(held_out) == 2 and not held_out & {path.rsplit("/", 1)[1] for path in written["shards"]}
    for i, (text,) in enumerate(captions):  # the number is the picture's grey
        assert abs(images[i].getpixel((0, 0))[0] - int(text.split()[1])) <= 1
    images, captions = read_pairs(tmp_path / "out", "train")  # for the ablations
    assert len(images) == 10 and images[9].size == (40, 32)
    trained_on = {int(path.rsplit("/", 1)[1][:5]) for path in written["shards"]}
    assert {int(text.split()[1]) // 10 for (text,) in captions} == trained_on


@pytest.mark.parametrize("seed", range(4))
def test_of_shards_of_many_sizes_as_few_are_held_out_as_hold_the_validation_pairs(seed, tmp_path):
    sizes = {f"{number}.tar": number for number in range(1, 8)}
    for name, size in sizes.items():
        write_shard(tmp_path / "raw/shards" / name, 10 * size, size)
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    prepare(tmp_path / "out", settings(tmp_path / "raw", seed=seed))
    written = read_json(tmp_path / "out/train_shards.json")
    names = [path.rsplit("/", 1)[1] for path in written["shards"]]
    assert names == sorted(names) and written["pairs"] == [sizes[name] for name in names]
    held_out = [size for name, size in sizes.items() if name not in names]
    assert len(read_pairs(tmp_path / "out", "validation")[0]) == 6 <= sum(held_out)
    assert sum(held_out) - max(held_out) < 6


def test_shards_with_too_many_torn_samples_are_not_prepared(tmp_path):
    for number in range(3):
        name = f"{10 * number:09d}"
        write_shard(
            tmp_path / f"raw/shards/{number}.tar", 10 * number, 4, **{f"{name}.txt": None, f"{name}.json": None}
        )
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    with pytest.raises(ValueError, match=r"3 of 12 samples .* more than prepare.max_bad_share \(0.1\)"):
        prepare(tmp_path / "out", settings(tmp_path / "raw", validation_scenes=1))


def test_a_torn_photo_is_not_unpacked(tmp_path):
    for number in range(2):
        name = f"{10 * number:09d}.jpg"
        write_shard(tmp_path / f"raw/shards/{number}.tar", 10 * number, 3, **{name: b"no image"})
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    prepare(tmp_path / "out", settings(tmp_path / "raw", validation_scenes=3))
    for split in ("train", "validation"):
        images = read_pairs(tmp_path / "out", split)[0].source
        assert len(images) == 2 and sorted((tmp_path / f"out/{split}_images").iterdir()) == list(map(Path, images))


def test_too_few_shards_to_hold_some_out(tmp_path):
    write_shard(tmp_path / "raw/shards/0.tar", 0, 4)
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    with pytest.raises(ValueError, match="has 1 shards, and none is left .* lower prepare.validation_scenes"):
        prepare(tmp_path / "out", settings(tmp_path / "raw", validation_scenes=1))
    with pytest.raises(FileNotFoundError, match=r"shards: \*\.tar\n.*img2dataset"):
        prepare(tmp_path / "out", settings(tmp_path / "nothing"))


def test_real_shards_hold_what_plain_tarfile_reads(real_data):
    shards = find_shards(real_data / "webdataset")
    assert survey(shards, 0.0) == ([60, 60], "")
    found = {key: (image, caption) for key, image, caption in samples(shards)}
    for shard in shards:
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in (name for name in files if name.endswith(".json")):
            key = name.removesuffix(".json")
            assert found.pop(key) == (files[f"{key}.jpg"], json.loads(files[name])["caption"])
    assert not found
