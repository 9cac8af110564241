"""WebDataset shards as img2dataset writes them, tar files of KEY.jpg, KEY.txt, KEY.json (paper, section 4: CC3M, CC12M
and YFCC15M).
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import webdataset
from webdataset.tariterators import base_plus_ext, group_by_keys

from pacl.runtime.processes import end_with_parent

IMAGES = ("jpg", "jpeg", "png", "webp")
READ = (*IMAGES, "txt", "json")  # a sample's other members are never read
LARGEST = 64 * 2**20  # bytes of a member that may be read
SHARDS = {
    "name": "image-caption shards",
    "folder": "shards",
    "sizes": {},
    "parts": {"shards": ("*.tar", "**/*.[tT][aA][rR]")},
    "get": "img2dataset with --output_format webdataset --output_folder {folder}/NAME; docs/data.md has the commands",
    "terms": "CC3M and CC12M: Google's terms, free use; YFCC15M: Creative Commons licences of the photos",
}
NOT_UTF8 = "caption not in UTF-8"
DOTS = "more than one dot in a name"
BUFFER = 1000  # samples from which the next is drawn at random, to separate neighbours in a shard


def find_shards(folder: str | Path) -> list[Path]:
    """The shards in a folder at any depth, sorted."""
    found = Path(folder).glob(SHARDS["parts"]["shards"][1])
    return sorted(path for path in found if not path.name.startswith("."))


def survey(shards: list[Path], max_bad_share: float) -> tuple[list[int], str]:
    """The number of good samples in each shard, and a sentence on the bad ones, "" if there are none.

    Counts what `samples` would yield, but reads no picture, only captions. Raises ValueError if more than the fraction
    `max_bad_share` of all are bad.
    """
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:
        found = list(pool.map(good_and_bad_of, shards))
    good, bad = sum(g for g, _ in found), sum((b for _, b in found), Counter())
    if not bad and good:
        return [g for g, _ in found], ""
    first = next(path for path, (_, b) in zip(shards, found, strict=True) if b or not good)
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in bad.most_common()) or "none is there"
    everything = good + bad.total()
    sentence = f"{bad.total():,} of {everything:,} samples in the shards are bad ({reasons}), the first in {first}"
    rename = "leave one dot in each name, " if DOTS in bad else ""
    if not good or bad.total() > max_bad_share * everything:
        raise ValueError(
            f"{sentence}: let each image lie next to its caption in the tar, {rename}download the shards again, or "
            f"raise prepare.max_bad_share ({max_bad_share})."
        )
    return [g for g, _ in found], f"{sentence}; they are skipped."


def good_and_bad_of(path: Path) -> tuple[int, Counter]:
    """The number of a shard's good samples, and its bad ones by reason."""
    bad = Counter()
    good = sum(one is not None for one in good_and_bad([path], None, bad, pictures=False))
    return good, bad


def read_members(shards: Iterator[dict], bad: Counter, pictures: bool) -> Iterator[dict]:
    """The members of shards {"url"} in webdataset's form, {} after each shard. A shard must be uncompressed, so that no
    member but a sparse one is larger than the shard itself.
    """
    for shard in shards:
        try:
            with tarfile.open(shard["url"], "r:") as tar:
                for member in filter(tarfile.TarInfo.isreg, tar):
                    yield {"fname": member.name, "data": data_of(member, tar, pictures), "__url__": shard["url"]}
                    tar.members = []  # tarfile keeps every header, which nobody needs again
        except Exception:  # tarfile raises nearly any kind for a damaged header
            bad["corrupt shard"] += 1
        yield {}


def data_of(member: tarfile.TarInfo, tar: tarfile.TarFile, pictures: bool) -> bytes | None:
    """A member's bytes, without `pictures` only an image's last one; none of what is never read, None if it doesn't fit
    in memory; a sparse one of a few bytes may claim any size. Raises tarfile.ReadError if the tar ends before.
    """
    suffix = (base_plus_ext(member.name)[1] or "").lower()
    if suffix not in READ:
        return b""
    if member.size > LARGEST or member.issparse():
        return None
    file = tar.extractfile(member)
    if not pictures and suffix in IMAGES:
        file.seek(max(member.size - 1, 0))
    return file.read()


def samples(shards: list[Path], *, seed: int | None = None, bad: Counter | None = None) -> Iterator[tuple]:
    """(key, image file's bytes, caption) of all shards, in order or shuffled by the seed.

    bad: counts what is skipped, by reason ("corrupt shard", "too large", "no image", DOTS, "no caption",
    NOT_UTF8).
    """
    return filter(None, good_and_bad(shards, seed, Counter() if bad is None else bad))


def good_and_bad(
    shards: list[Path], seed: int | None, bad: Counter, *, pictures: bool = True
) -> Iterator[tuple | None]:
    """What `samples` yields, and None for each skipped sample; without `pictures`, a byte in place of each image."""
    stages = [webdataset.SimpleShardList([str(path) for path in shards])]
    if seed is not None:
        stages.append(webdataset.shuffle(len(shards), seed=seed))

    def skip(error: Exception) -> bool:
        bad["corrupt shard"] += 1
        return True

    stages.append(lambda shards: group_by_keys(read_members(shards, bad, pictures), handler=skip))
    if seed is not None:
        stages.append(webdataset.shuffle(BUFFER, initial=BUFFER, seed=seed))
    for found in map(read_sample, webdataset.DataPipeline(*stages)):
        bad.update([found] if isinstance(found, str) else [])
        yield None if isinstance(found, str) else found


def read_sample(sample: dict) -> tuple | str:
    """(key, image file's bytes, caption), or why the sample is bad."""
    if None in sample.values():
        return "too large"
    image = next((sample[suffix] for suffix in IMAGES if suffix in sample), None)
    if image is None:
        dots = any(name.endswith(tuple(f".{ending}" for ending in IMAGES)) for name in sample)
        return DOTS if dots else "no image"
    if caption := caption_of(sample):
        return sample["__key__"], image, caption
    return "no caption" if all(map(is_utf8, (sample.get("txt", b""), sample.get("json", b"")))) else NOT_UTF8


def caption_of(sample: dict) -> str:
    """The caption of KEY.txt or, if that has none, of KEY.json; "" for none, or for one with half a surrogate pair."""
    texts = []
    with suppress(UnicodeDecodeError):
        texts.append(sample.get("txt", b"").decode("utf-8-sig"))
    with suppress(ValueError, AttributeError, RecursionError):
        texts.append(json.loads(sample.get("json", b"{}")).get("caption"))
    found = (" ".join(text.split()) for text in texts if isinstance(text, str) and is_whole(text))
    return next(filter(None, found), "")


def is_whole(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which only JSON can hold."""
    return text == text.encode("utf-8", "replace").decode()


def is_utf8(data: bytes) -> bool:
    return data == data.decode("utf-8", "ignore").encode()
