"""WebDataset shards as img2dataset writes them: KEY.jpg, KEY.txt, KEY.json in tar files (paper, section 4: CC3M, CC12M
and YFCC15M).
"""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import webdataset
from webdataset.tariterators import base_plus_ext, group_by_keys

from pacl.runtime.processes import end_with_parent

IMAGES = ("jpg", "jpeg", "png", "webp")
READ = (*IMAGES, "txt", "json")  # a sample's other members are never read
LARGEST = 64 * 2**20  # bytes of a member that is read
SHARDS = {
    "name": "image-caption shards",
    "folder": "shards",
    "sizes": {},
    "parts": {"shards": ("*.tar", "*/*.tar")},
    "get": "img2dataset with --output_format webdataset --output_folder {folder}/NAME; docs/data.md has the commands",
    "terms": "CC3M and CC12M: Google's terms, free use; YFCC15M: Creative Commons licences of the photos",
}
BUFFER = 1000  # samples from which one is drawn at random, so that neighbours in a shard part


def find_shards(folder: str | Path) -> list[Path]:
    """The shards in a folder and in the folders in it, sorted."""
    return sorted(path for place in SHARDS["parts"]["shards"] for path in Path(folder).glob(place))


def survey(shards: list[Path], max_bad_share: float) -> tuple[list[int], str]:
    """The number of whole samples in each shard, and a sentence on what is bad, "" if nothing is; reads names only.

    A sample is bad without an image or without a caption or with a member that `is_held` refuses, and so is the last of
    a shard that is cut. Raises ValueError where more than `max_bad_share` of all are bad.
    """
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:
        found = list(pool.map(whole_and_bad, shards))
    good, bad = sum(g for g, _ in found), sum(b for _, b in found)
    if not bad and good:
        return [g for g, _ in found], ""
    first = next(path for path, (_, b) in zip(shards, found, strict=True) if b or not good)
    sentence = f"{bad:,} of {good + bad:,} samples in the shards are torn or miss a part, the first in {first}"
    if not good or bad > max_bad_share * (good + bad):
        raise ValueError(
            f"{sentence}: more than prepare.max_bad_share ({max_bad_share}). Download them again, or raise it."
        )
    return [g for g, _ in found], f"{sentence}; they are skipped."


def whole_and_bad(path: Path) -> tuple[int, int]:
    """How many samples of a shard have all their parts, and how many don't."""
    parts: dict[str, set[str]] = {}
    refused, torn = set(), False
    try:
        for member, _ in members(path):
            key, suffix = base_plus_ext(member.name)
            if key:
                parts.setdefault(key, set()).add(suffix.lower())
                refused |= set() if is_held(member) else {key}
    except Exception:  # see read_members
        torn = True
    whole = {key for key, suffixes in parts.items() if suffixes & set(IMAGES) and suffixes & {"txt", "json"}} - refused
    if torn and parts:
        whole.discard(list(parts)[-1])
    return len(whole), max(len(parts) - len(whole), int(torn))


def members(path: str | Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """The files in a tar and the tar, which must not be compressed: nothing in it is then larger than the tar itself
    but for sparse members. Raises nearly every kind of exception for a damaged one.
    """
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isreg():
                yield member, tar
            tar.members = []  # tarfile keeps every header, which in shards nobody asks for again


def is_held(member: tarfile.TarInfo) -> bool:
    """Whether a member may be held in memory, or is of a kind that is never read; a sparse one of a few bytes may claim
    any size.
    """
    return not is_read(member) or (member.size <= LARGEST and not member.issparse())


def is_read(member: tarfile.TarInfo) -> bool:
    return (base_plus_ext(member.name)[1] or "").lower() in READ


def read_members(shards: Iterator[dict], bad: Counter) -> Iterator[dict]:
    """Members of shards {"url"} as webdataset groups them, {} after each shard; one that `is_held` refuses is None."""
    for shard in shards:
        try:
            for member, tar in members(shard["url"]):
                data = tar.extractfile(member).read() if is_read(member) and is_held(member) else b""
                yield {"fname": member.name, "data": data if is_held(member) else None, "__url__": shard["url"]}
        except Exception:  # tarfile raises nearly every kind for a damaged header
            bad["torn shard"] += 1
        yield {}


def samples(shards: list[Path], *, seed: int | None = None, bad: Counter | None = None) -> Iterator[tuple]:
    """(key, image file's bytes, caption) of all shards; in their order, or shuffled by the seed.

    bad: counts what is skipped, by reason ("torn shard", "too large", "no image", "no caption").
    """
    return filter(None, good_and_bad(shards, seed, Counter() if bad is None else bad))


def good_and_bad(shards: list[Path], seed: int | None, bad: Counter) -> Iterator[tuple | None]:
    """What `samples` yields, and None for each sample that is skipped."""
    stages = [webdataset.SimpleShardList([str(path) for path in shards])]
    if seed is not None:
        stages.append(webdataset.shuffle(len(shards), seed=seed))

    def skip(error: Exception) -> bool:
        bad["torn shard"] += 1
        return True

    stages.append(lambda shards: group_by_keys(read_members(shards, bad), handler=skip))
    if seed is not None:
        stages.append(webdataset.shuffle(BUFFER, initial=BUFFER, seed=seed))
    for found in map(read_sample, webdataset.DataPipeline(*stages)):
        bad.update([found] if isinstance(found, str) else [])
        yield None if isinstance(found, str) else found


def read_sample(sample: dict) -> tuple | str:
    """(key, image file's bytes, caption), or the reason why the sample is bad."""
    if None in sample.values():
        return "too large"
    image = next((sample[suffix] for suffix in IMAGES if suffix in sample), None)
    if image is None:
        return "no image"
    caption = caption_of(sample)
    return (sample["__key__"], image, caption) if caption else "no caption"


def caption_of(sample: dict) -> str:
    """The caption of KEY.txt or, without it, of KEY.json; "" where there is none, or one with half a character, which
    JSON can hold and no file can.
    """
    try:
        text = sample["txt"].decode() if "txt" in sample else json.loads(sample.get("json", b"{}")).get("caption")
        text.encode()
    except (ValueError, AttributeError, RecursionError):
        return ""
    return " ".join(text.split())
