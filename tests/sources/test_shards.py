"""WebDataset shards: what is good, what is skipped and counted, when it is too much."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from helpers.folders import write_voc
from helpers.small_shards import jpeg, tar_of, write_shard

from pacl.data.prepared import read_pairs
from pacl.runtime.files import read_json
from pacl.runtime.params import Prepare
from pacl.sources.prepare import prepare
from pacl.sources.shards import find_shards, samples, survey


def test_all_samples_in_the_order_of_the_shards(tmp_path):
    for number, name in enumerate(("a.TAR", "cc3m/part/b.tar", "._b.tar")):
        write_shard(tmp_path / name, 10 * number, 3)
    shards = find_shards(tmp_path)
    assert [path.name for path in shards] == ["a.TAR", "b.tar"]
    assert survey(shards, 0.0) == ([3, 3], "")
    found = list(samples(shards))
    assert [caption for _, _, caption in found] == [f"caption {i}" for i in (0, 1, 2, 10, 11, 12)]
    assert all(image == jpeg(int(key)) for key, image, _ in found)


def test_dots_in_names_are_the_reason(tmp_path):
    """A key ends at the first dot: photo.v1 and photo.v2 are both the sample "photo". A shard itself may have dots."""
    names = {f"000000000.{suffix}": None for suffix in ("jpg", "txt", "json")}
    dotted = {f"photo.v{i}.{suffix}": data for i in (1, 2) for suffix, data in (("jpg", jpeg()), ("txt", b"a dog"))}
    shard = write_shard(tmp_path / "cc3m.v1.0.tar", 0, 1, **names, **dotted)
    with pytest.raises(ValueError, match=r"1 x more than one dot in a name\), .*: .* leave one dot in each n"):
        survey([shard], 0.0)
    whole = write_shard(tmp_path / "cc3m.v1.1.tar", 0, 9)
    assert find_shards(tmp_path) == [shard, whole]
    assert survey([shard, whole], 0.1)[1].startswith("1 of 10 samples in the shards are bad (1 x more than one dot")


def test_a_seed_shuffles_shards_and_samples_and_repeats(tmp_path, monkeypatch):
    """Far more pairs than are mixed at a time must not come in the order of their shards."""
    shards = [write_shard(tmp_path / f"{number}.tar", 10 * number, 2) for number in range(4)]
    for buffer in (1000, 1):
        monkeypatch.setattr("pacl.sources.shards.BUFFER", buffer)
        orders = [tuple(int(key) for key, *_ in samples(shards, seed=seed)) for seed in (0, 0, 1, 2, 3)]
        assert orders[0] == orders[1] and len({*orders}) > 1
        assert {tuple(sorted(order)) for order in orders} == {(0, 1, 10, 11, 20, 21, 30, 31)}


def test_incomplete_samples_are_skipped_and_counted(tmp_path):
    """The caption may be in the JSON file only; one of spaces is none."""
    changes = dict.fromkeys(("000000000.txt", "000000001.jpg", "000000003.txt", "000000003.json"))
    changes |= {"000000002.txt": b" \n", "000000002.json": b"{}"}
    shard = write_shard(tmp_path / "0.tar", 0, 5, **changes)
    bad = Counter()
    assert [caption for *_, caption in samples([shard], bad=bad)] == ["caption 0", "caption 4"]
    assert bad == {"no image": 1, "no caption": 2}
    counts, note = survey([shard], 0.7)
    assert counts == [2]
    reasons = "2 x no caption, 1 x no image"
    assert note == f"3 of 5 samples in the shards are bad ({reasons}), the first in {shard}; they are skipped."
    assert survey([shard], 0.6) == (counts, note)  # as many as are allowed
    with pytest.raises(ValueError, match=r"3 of 5 samples .* or raise prepare.max_bad_share \(0.5\)"):
        survey([shard], 0.5)


DOG, PHOTO = b'{"caption": "a dog"}', ("a.jpg", jpeg())
PHOTOS, TEXTS = [(f"{i}.jpg", jpeg()) for i in range(6)], [(f"{i}.txt", b"a dog") for i in range(6)]
WHAT_READS = {
    "apart, as `tar c *.jpg *.txt` writes them": (PHOTOS + TEXTS, 0, {"no caption": 6, "no image": 6}),
    "capitals": ([("a.JPG", jpeg()), ("a.TXT", b"a dog")], 1, {}),
    "a member without a suffix": ([("README", b"one photo"), PHOTO, ("a.txt", b"a dog")], 1, {}),
    "caption null": ([PHOTO, ("a.json", b'{"caption": null}')], 0, {"no caption": 1}),
    "captions in a list": ([PHOTO, ("a.json", b'{"caption": ["a", "b"]}')], 0, {"no caption": 1}),
    "half a surrogate pair": ([PHOTO, ("a.json", b'{"caption": "a \\ud83d dog"}')], 0, {"no caption": 1}),
    "nested without end": ([PHOTO, ("a.json", 100_000 * b"[")], 0, {"no caption": 1}),
    "an empty text": ([PHOTO, ("a.txt", b" \n"), ("a.json", DOG)], 1, {}),
    "cp1252": ([PHOTO, ("a.txt", "café".encode("cp1252"))], 0, {"caption not in UTF-8": 1}),
    "cp1252, and JSON": ([PHOTO, ("a.txt", "café".encode("cp1252")), ("a.json", DOG)], 1, {}),
    "a byte order mark": ([PHOTO, ("a.txt", "\ufeffcafé".encode())], 1, {}),
    "each name twice": ([PHOTO] * 2 + [("a.txt", b"a dog")] * 2, 1, {"corrupt shard": 2}),
}


@pytest.mark.parametrize("members, good, bad", WHAT_READS.values(), ids=WHAT_READS)
def test_samples_are_counted_as_they_are_read(members, good, bad, tmp_path):
    shard, read = tar_of(tmp_path / "0.tar", *members), Counter()
    assert len(list(samples([shard], bad=read))) == good and read == bad
    if good:
        assert survey([shard], 0.9)[0] == [good]
    if bad:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in bad.items())
        with pytest.raises(ValueError, match=rf"\({reasons}\), the first in .*0.tar: let each image lie next to its"):
            survey([shard], 0.1)


@pytest.mark.parametrize("left", [0.4, 0.75])
def test_a_truncated_shard_gives_its_good_samples(tmp_path, left):
    whole, cut = (write_shard(tmp_path / f"{number}.tar", 10 * number, 10) for number in range(2))
    cut.write_bytes(cut.read_bytes()[: int(left * cut.stat().st_size)])
    counts, note = survey([cut, whole], 0.5)
    assert 0 < counts[0] < 10 and counts[1] == 10
    assert "1 x corrupt shard" in note and f"the first in {cut}" in note
    bad = Counter()
    captions = [caption for *_, caption in samples([cut, whole], bad=bad)]
    assert captions == [f"caption {i}" for i in (*range(10, 10 + counts[0]), *range(10))]
    assert bad["corrupt shard"] == 1 and note.startswith(f"{bad.total()} of {sum(counts) + bad.total()} samples")


def test_empty_and_foreign_shards_are_named(tmp_path):
    with pytest.raises(ValueError, match="^0 of 0 samples .*none is there.* the first in .*/0.tar: let each image"):
        survey([write_shard(tmp_path / "0.tar", 0, 0)], 1.0)
    (tmp_path / "0.tar").write_text("not an archive")
    with pytest.raises(ValueError, match="0.tar: .* download the shards again, or raise prepare.max_bad_share"):
        survey([tmp_path / "0.tar"], 1.0)


def settings(raw, **changes):
    values = {"source": "webdataset", "raw": str(raw), "seed": 0, "train_pairs": 10, "validation_scenes": 6}
    values |= {"test_scenes": None, "benchmarks": ["voc20"], "classification_sets": [], "classification_images": None}
    return Prepare.model_validate(values | {"max_bad_share": 0.1} | changes)


@pytest.fixture
def raw(tmp_path):
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    return tmp_path / "raw"


def test_whole_shards_are_held_out_and_their_first_pairs_unpacked(raw, tmp_path):
    for number in range(5):
        write_shard(raw / f"shards/cc12m/{number:05d}.tar", 10 * number, 4)
    note = prepare(tmp_path / "out", settings(raw))
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


@pytest.mark.parametrize("seed", range(2))
def test_no_more_shards_are_held_out_than_hold_the_validation_pairs(seed, raw, tmp_path):
    sizes = {f"{number}.tar": number for number in range(1, 8)}
    for name, size in sizes.items():
        write_shard(raw / "shards" / name, 10 * size, size)
    prepare(tmp_path / "out", settings(raw, seed=seed))
    written = read_json(tmp_path / "out/train_shards.json")
    names = [path.rsplit("/", 1)[1] for path in written["shards"]]
    assert names == sorted(names) and written["pairs"] == [sizes[name] for name in names]
    held_out = [size for name, size in sizes.items() if name not in names]
    assert len(read_pairs(tmp_path / "out", "validation")[0]) == 6 <= sum(held_out)
    assert sum(held_out) - max(held_out) < 6


def test_corrupt_photos_are_not_unpacked_and_may_leave_too_few(raw, tmp_path):
    for number in range(2):
        write_shard(raw / f"shards/{number}.tar", 10 * number, 3, **{f"{10 * number:09d}.jpg": b"not an image"})
    few = {"train_pairs": 2, "validation_scenes": 2}
    for key in few:
        with pytest.raises(ValueError, match=f"only 2 pairs whose image can be read, but prepare.{key} asks for 3"):
            prepare(tmp_path / "out", settings(raw, **few | {key: 3}))
        assert not (tmp_path / "out").exists()
    prepare(tmp_path / "out", settings(raw, **few))
    for split in ("train", "validation"):
        images = read_pairs(tmp_path / "out", split)[0].source
        assert len(images) == 2 and sorted((tmp_path / f"out/{split}_images").iterdir()) == list(map(Path, images))


def test_too_few_and_too_bad_shards_are_refused(raw, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"shards: \*\.tar\n.*img2dataset"):
        prepare(tmp_path / "out", settings(raw))
    write_shard(raw / "shards/0.tar", 0, 4)
    with pytest.raises(ValueError, match="has 1 shards, and none is left .* lower prepare.validation_scenes"):
        prepare(tmp_path / "out", settings(raw, validation_scenes=1))
    write_shard(raw / "shards/1.tar", 10, 4, **{"000000010.txt": None, "000000010.json": None})
    with pytest.raises(ValueError, match=r"1 of 8 samples .* or raise prepare.max_bad_share \(0.1\)"):
        prepare(tmp_path / "out", settings(raw, validation_scenes=1))


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
