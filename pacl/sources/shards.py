"""WebDataset shards as img2dataset writes them, tar files of KEY.jpg, KEY.txt, KEY.json (paper, section 4: CC3M, CC12M
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
LARGEST = 64 * 2**20  # bytes of a member that may be read
SHARDS = {
    "name": "image-caption shards",
    "folder": "shards",
    "sizes": {},
    "parts": {"shards": ("*.tar", "*/*.tar")},
    "get": "img2dataset with --output_format webdataset --output_folder {folder}/NAME; docs/data.md has the commands",
    "terms": "CC3M and CC12M: Google's terms, free use; YFCC15M: Creative Commons licences of the photos",
}
BUFFER = 1000  # samples from which the next is drawn at random, to separate neighbours in a shard


def find_shards(folder: str | Path) -> list[Path]:
    """The shards in a folder and in the folders in it, sorted."""
    return sorted(path for place in SHARDS["parts"]["shards"] for path in Path(folder).glob(place))


def survey(shards: list[Path], max_bad_share: float) -> tuple[list[int], str]:
    """The number of good samples in each shard, and a sentence on the bad ones, "" if there are none; reads names only.

    A sample is bad if it lacks an image or a caption, has a member that `fits` refuses, or is the last of a truncated
    shard. Raises ValueError if more than the fraction `max_bad_share` of all are bad.
    """
    with ProcessPoolExecutor(initializer=end_with_parent) as pool:
        found = list(pool.map(whole_and_bad, shards))
    good, bad = sum(g for g, _ in found), sum(b for _, b in found)
    if not bad and good:
        return [g for g, _ in found], ""
    first = next(path for path, (_, b) in zip(shards, found, strict=True) if b or not good)
    sentence = f"{bad:,} of {good + bad:,} samples in the shards are corrupt or incomplete, the first in {first}"
    if not good or bad > max_bad_share * (good + bad):
        raise ValueError(f"{sentence}: download them again, or raise prepare.max_bad_share ({max_bad_share}).")
    return [g for g, _ in found], f"{sentence}; they are skipped."


def whole_and_bad(path: Path) -> tuple[int, int]:
    """The numbers of a shard's good and bad samples."""
    parts: dict[str, set[str]] = {}
    refused, corrupt = set(), False
    try:
        for member, _ in members(path):
            key, suffix = base_plus_ext(member.name)
            if key:
                parts.setdefault(key, set()).add(suffix.lower())
                refused |= set() if fits(member) else {key}
    except Exception:  # see read_members
        corrupt = True
    whole = {key for key, suffixes in parts.items() if suffixes & set(IMAGES) and suffixes & {"txt", "json"}} - refused
    if corrupt and parts:
        whole.discard(list(parts)[-1])
    return len(whole), max(len(parts) - len(whole), int(corrupt))


def members(path: str | Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Each file in a tar, with the tar. The tar must be uncompressed, so that no member but a sparse one is larger than
    the tar itself. Raises nearly any kind of exception for a corrupt one.
    """
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.isreg():
                yield member, tar
            tar.members = []  # tarfile keeps every header, which nobody needs again


def fits(member: tarfile.TarInfo) -> bool:
    """Whether a member fits in memory or is never read; a sparse one of a few bytes may claim any size."""
    return not is_read(member) or (member.size <= LARGEST and not member.issparse())


def is_read(member: tarfile.TarInfo) -> bool:
    return (base_plus_ext(member.name)[1] or "").lower() in READ


def read_members(shards: Iterator[dict], bad: Counter) -> Iterator[dict]:
    """The members of shards {"url"} in webdataset's form, {} after each shard; data is None if `fits` refuses it."""
    for shard in shards:
        try:
            for member, tar in members(shard["url"]):
                data = tar.extractfile(member).read() if is_read(member) and fits(member) else b""
                yield {"fname": member.name, "data": data if fits(member) else None, "__url__": shard["url"]}
        except Exception:  # tarfile raises nearly any kind for a damaged header
            bad["corrupt shard"] += 1
        yield {}


def samples(shards: list[Path], *, seed: int | None = None, bad: Counter | None = None) -> Iterator[tuple]:
    """(key, image file's bytes, caption) of all shards, in order or shuffled by the seed.

    bad: counts what is skipped, by reason ("corrupt shard", "too large", "no image", "no caption").
    """
    return filter(None, good_and_bad(shards, seed, Counter() if bad is None else bad))


def good_and_bad(shards: list[Path], seed: int | None, bad: Counter) -> Iterator[tuple | None]:
    """What `samples` yields, and None for each skipped sample."""
    stages = [webdataset.SimpleShardList([str(path) for path in shards])]
    if seed is not None:
        stages.append(webdataset.shuffle(len(shards), seed=seed))

    def skip(error: Exception) -> bool:
        bad["corrupt shard"] += 1
        return True

    stages.append(lambda shards: group_by_keys(read_members(shards, bad), handler=skip))
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
        return "no image"
    caption = caption_of(sample)
    return (sample["__key__"], image, caption) if caption else "no caption"


def caption_of(sample: dict) -> str:
    """The caption of KEY.txt or else of KEY.json; "" for none, or for one with half a surrogate pair."""
    try:
        text = sample["txt"].decode() if "txt" in sample else json.loads(sample.get("json", b"{}")).get("caption")
        text.encode()
    except (ValueError, AttributeError, RecursionError):
        return ""
    return " ".join(text.split())
