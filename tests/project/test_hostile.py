"""Damaged and hostile files: every reader gives what an independent reading gives, or one sentence that names the file.

PACL_CASES: how many damaged files each reader of the slow test gets (default 2,000). PACL_RECORD: a JSON file to keep
their counts in.
"""

import csv
import gzip
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import tarfile
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import psutil
import pytest
import torch
from helpers.archive import Archive
from helpers.folders import write_image
from helpers.small_shards import jpeg, write_shard
from PIL import Image, ImageOps
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from pacl.checkpoints import load_embedder, save_embedder
from pacl.clip import load_clip
from pacl.clip.features import Texts, read_features
from pacl.data.benchmark import Benchmark
from pacl.data.images import Masks, open_image
from pacl.data.prepared import read_labelled, read_pairs, write_labelled, write_pairs
from pacl.evaluation.mistakes import read_confusion_matrices
from pacl.model import VisionEmbedder
from pacl.runtime.config import read_yaml
from pacl.sources.caption_sets import COCO, FLICKR8K, captioned
from pacl.sources.classification_sets import read_folders
from pacl.sources.segmentation_sets import benchmark, check_sizes, value_table
from pacl.sources.shards import caption_of, good_and_bad_of, samples
from pacl.tools.photos import find_photos
from pacl.training.resume import Progress, read_state

CASES = int(os.environ.get("PACL_CASES", "2000"))
MASK = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
LABELS = Benchmark("own", ("a", "b", "c"), value_table({k: k for k in range(3)}))
STATE = {"0": torch.arange(12.0).view(3, 4), "1": torch.tensor(5)}
CONFUSIONS = {method: torch.arange(4).view(2, 2) for method in ("clip", "pacl")}
SMALL_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}
NAMES = ["a b", "it's", 'say "x"', "--help", "猫 кот é", "two\nlines", "a,b", "100%s", "{split}", "[x]", "💥"]


@pytest.fixture(scope="module")
def good(tmp_path_factory, one_tokenizer):
    """A folder with one good file of every format that the pipeline reads, and what their readers need next to it."""
    folder = tmp_path_factory.mktemp("good")
    picture = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for suffix in ("jpg", "png", "webp"):
        Image.fromarray(picture).save(folder / f"photo.{suffix}", exif=Image.Exif())
    palette = Image.fromarray(MASK)
    palette.putpalette([7 * k % 256 for k in range(768)])
    masks = {"grey": Image.fromarray(MASK), "palette": palette, "16 bit": Image.fromarray(MASK.astype(np.uint16))}
    for name, mask in (masks | {"colours": palette.convert("RGB")}).items():
        mask.save(folder / f"{name}.png")
    write_pairs(folder, "train", picture[None], [["a"]])
    write_captions(folder)
    write_features(folder / "features")
    write_clips(folder)
    write_shard(folder / "0.tar", 0, 2)
    save_embedder(folder / "best", VisionEmbedder(4, 3), {"seed": 1})
    progress = Progress(folder / "state", {})
    progress.save(1, STATE)
    progress.good[0].rename(folder / "state.safetensors")
    keyed = {f"voc20/native/{method}": matrix for method, matrix in CONFUSIONS.items()}
    np.savez(folder / "confusion_matrices.npz", **keyed)
    (folder / "segmentation.json").write_text(json.dumps({"voc20": {"native": dict.fromkeys(CONFUSIONS)}}))
    (folder / "classes.txt").write_text("sea, ocean\nsky\nsand\nété\n", encoding="utf-8-sig")
    values = "mini:\n  train: {epochs: 3, rate: 1.0e-3, day: 2001-01-01}\nprofiles: [mini]\n"
    (folder / "params.yaml").write_text(values)
    return folder


def write_captions(folder):
    """Kaggle's Flickr8k, the original one, and COCO."""
    for photos in ("kaggle/Images", "original/Images", "coco/train2017"):
        write_image(folder / photos / "a.jpg")
    captions = [f"caption {i} , of a ." for i in range(5)]
    kaggle = "".join(f'a.jpg,"{caption}"\n' for caption in captions)
    (folder / "kaggle/captions.txt").write_text("image,caption\n" + kaggle)
    original = "".join(f"a.jpg#{i}\t{caption}\n" for i, caption in enumerate(captions))
    (folder / "original/Flickr8k.token.txt").write_text(original)
    rows = [{"id": i, "image_id": 7, "caption": caption} for i, caption in enumerate(captions)]
    (folder / "coco/annotations").mkdir()
    content = {"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": rows}
    (folder / "coco/annotations/captions_train2017.json").write_text(json.dumps(content))


def write_features(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for kind, shape in (("caption_features", (3, 4)), ("noun_features", (2, 2, 4)), ("train_patches", (2, 3, 5))):
        np.save(folder / f"{kind}.npy", rng.normal(size=shape).astype(np.float16))
    table = {"train": {"captions": [[0, 1], [2]], "nouns": [[1], []]}, "captions": ["a", "b", "c"]}
    (folder / "texts.json").write_text(json.dumps(table))


def write_clips(folder):
    """As safetensors, in torch's format, and as OpenAI's TorchScript, of an architecture that open_clip calls small."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = {name: tensor.contiguous() for name, tensor in open_clip.CLIP(**SMALL_CLIP).state_dict().items()}
    for name in ("safetensors", "bin"):
        (folder / name).mkdir()
        about = {"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}
        (folder / name / "open_clip_config.json").write_text(json.dumps(about, indent=1))
    save_file(weights, folder / "safetensors/open_clip_model.safetensors")
    torch.save(weights, folder / "bin/open_clip_pytorch_model.bin")
    (folder / "small.json").write_text(json.dumps(SMALL_CLIP))
    open_clip.add_model_config(folder / "small.json")
    torch.jit.save(torch.jit.trace(Archive(weights), torch.ones(1)), folder / "ViT-small.pt")


def captions_of(dataset):
    return lambda path: captioned(path.parents[1] if dataset is COCO else path.parent, dataset)[1]


def plain_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in list(csv.reader(file))[1:] if row]
    return [[",".join(row[1:]).strip() for row in rows if row[0] == "a.jpg"]]


def plain_tokens(path):
    lines = [line.decode().split("\t", 1) for line in path.read_bytes().split(b"\n")]
    return [[line[1].strip() for line in lines if line[0].rpartition("#")[0] == "a.jpg"]]


def plain_coco(path):
    content = json.loads(path.read_bytes())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    rows = sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"]))
    return [[" ".join(row["caption"].split()) for row in rows if names[row["image_id"]] == "a.jpg"]]


def plain_lines(path):
    return tuple(line.strip() for line in path.read_bytes().decode("utf-8-sig").splitlines() if line.strip())


def foreign_samples(path):
    """The samples whose image or words are not bytes of the file; tar has no checksum, so a flipped bit stays."""
    good_and_bad_of(path)
    parts = [(key, [image, *caption.encode().split()]) for key, image, caption in samples([path])]
    return [key for key, found in parts if len(found) < 2 or not all(part in path.read_bytes() for part in found)]


def read_embedder(path):
    embedder, about = load_embedder(path.with_suffix(""))
    return numbers(embedder.state_dict()), about


def plain_embedder(path):
    return numbers(load_file(path.with_suffix(".safetensors"))), json.loads(path.with_suffix(".json").read_bytes())


def read_prepared(path):
    images, captions = read_pairs(path.parent, "train")
    return [np.asarray(image).tobytes() for image in images], captions


def plain_prepared(path):
    content = json.loads(path.with_name("train.json").read_bytes())
    return [image.tobytes() for image in np.load(path.with_name("train_images.npy"))], content["captions"]


def read_clip(path):
    clip = load_clip("small", path, device="cpu") if path.suffix == ".pt" else load_clip("own", path.parent)
    sizes = [clip.image_size, clip.patch_size, clip.model.context_length]
    return sizes, numbers(clip.model.state_dict(), sizes)


def plain_clip(path):
    """Of OpenAI's archives, which torch can't read without running them, what was written."""
    folder = path.parent / "safetensors" if path.suffix == ".pt" else path.parent
    config = json.loads((folder / "open_clip_config.json").read_bytes())["model_cfg"]
    sizes = [config["vision_cfg"][key] for key in ("image_size", "patch_size")] + [config["text_cfg"]["context_length"]]
    bin_weights = path.suffix == ".bin" and torch.load(path, weights_only=True)
    return sizes, numbers(bin_weights or load_file(folder / "open_clip_model.safetensors"), sizes)


def numbers(weights, sizes=(16, 8, 8)):
    """All weights but position embeddings resized to other sizes, as bytes; a flipped bit may have made one a nan."""
    resized = ["visual.positional_embedding"] * (sizes[0] != 16) + ["positional_embedding"] * (sizes[2] != 8)
    names = sorted(weights.keys() - set(resized))
    return {name: weights[name].float().nan_to_num(7.0).numpy().tobytes() for name in names}


def read_texts(path):
    texts = Texts(path.parent, "train")
    for share in (0.0, 1.0):
        texts.draw(np.random.default_rng(0), np.arange(len(texts)), share)
    return texts.captions, texts.nouns, *map(array_of, (texts.caption_features, texts.noun_features))


def plain_texts(path):
    table = json.loads((path.parent / "texts.json").read_bytes())["train"]
    arrays = (np.load(path.parent / f"{kind}_features.npy") for kind in ("caption", "noun"))
    return table["captions"], table["nouns"], *map(array_of, arrays)


def array_of(array):
    return array.dtype.name, array.shape, array.tobytes()


IMAGE = (
    lambda path: open_image(path).tobytes(),
    lambda path: ImageOps.exif_transpose(Image.open(path)).convert("RGB").tobytes(),
)
TARGET = (lambda path: LABELS.target(Masks([path])[0]).tobytes(), lambda _: MASK.tobytes())  # PNG has checksums
EMBEDDER, PREPARED = (read_embedder, plain_embedder), (read_prepared, plain_prepared)
CLIP, TEXTS = (read_clip, plain_clip), (read_texts, plain_texts)
TOKENS = (lambda path: array_of(read_features(path, 3)), lambda path: array_of(np.load(path)))
CLASSES = (lambda path: benchmark("own", path.parent, []).classes, plain_lines)
MATRICES = (lambda path: read_confusion_matrices(path.parent, "voc20", "native"), lambda _: CONFUSIONS)
# name -> a good file, its reader, an independent reading or, of a format with checksums, what was written
READERS = {
    **{f"image, {suffix}": (f"photo.{suffix}", *IMAGE) for suffix in ("jpg", "png", "webp")},
    **{f"mask, {kind}": (f"{kind}.png", *TARGET) for kind in ("grey", "palette", "16 bit", "colours")},
    "sizes of image and mask": ("grey.png", lambda path: check_sizes([path], [path]), lambda _: None),
    "captions.txt": ("kaggle/captions.txt", captions_of(FLICKR8K), plain_csv),
    "token.txt": ("original/Flickr8k.token.txt", captions_of(FLICKR8K), plain_tokens),
    "COCO captions": ("coco/annotations/captions_train2017.json", captions_of(COCO), plain_coco),
    "shard": ("0.tar", foreign_samples, lambda _: []),
    "class list": ("classes.txt", *CLASSES),
    "params.yaml": ("params.yaml", read_yaml, lambda path: YAML(typ="safe", pure=True).load(path.read_text())),
    "checkpoint's safetensors": ("best.safetensors", *EMBEDDER),
    "checkpoint's json": ("best.json", *EMBEDDER),
    "saved state": ("state.safetensors", lambda path: numbers(read_state(path)[1]), lambda _: numbers(STATE)),
    "prepared json": ("train.json", *PREPARED),
    "array": ("train_images.npy", *PREPARED),
    "CLIP's safetensors": ("safetensors/open_clip_model.safetensors", *CLIP),
    "CLIP's .bin": ("bin/open_clip_pytorch_model.bin", *CLIP),
    "OpenAI's .pt": ("ViT-small.pt", *CLIP),
    "CLIP's configuration": ("safetensors/open_clip_config.json", *CLIP),
    "cached tokens": ("features/train_patches.npy", *TOKENS),
    "cached captions": ("features/caption_features.npy", *TEXTS),
    "cached nouns": ("features/noun_features.npy", *TEXTS),
    "texts.json": ("features/texts.json", *TEXTS),
    "confusion matrices": ("confusion_matrices.npz", *MATRICES),
}


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A file after one to three faults: truncated, a bit flipped, a block zeroed, repeated, overwritten, junk added."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(max(len(data), 1))
        end = start + chance.randint(1, 64)
        junk = chance.randbytes(chance.randint(1, 32))
        flipped = bytes(byte ^ (1 << chance.randrange(8)) for byte in data[start : start + 1])
        faults = (
            data[:start],
            data[:start] + flipped + data[start + 1 :],
            data[:start] + bytes(len(data[start:end])) + data[end:],
            data[:end] + data[start:],
            data[:start] + junk + data[start + len(junk) :],
            junk + data[len(junk) :],
            data + junk,
        )
        data = chance.choice(faults)
    return data


def accepted(path: Path, read, independent) -> bool:
    """Whether the file was read, and then right; otherwise it must be refused by a sentence that names it."""
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        named = path.stem in str(error) or str(error).startswith("a mask holds") or "has no image that" in str(error)
        missing = isinstance(error, FileNotFoundError) and str(path.parent) in str(error)  # a file that it names
        assert named or missing, repr(error)
        return False
    assert repr(found) == repr(independent(path))
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("cases", [30, pytest.param(CASES, marks=pytest.mark.slow)], ids=["few", "many"])
def test_damaged_files_are_read_right_or_refused(reader, cases, good, tmp_path):
    name, *readings = READERS[reader]
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    path, chance, refused = tmp_path / name, random.Random(0), 0
    whole = path.read_bytes()
    assert accepted(path, *readings) or reader == "mask, colours"
    for _ in range(cases):
        path.unlink()  # an array may still be mapped
        path.write_bytes(damaged(whole, chance))
        refused += not accepted(path, *readings)
    assert refused or reader == "shard"  # whose bad samples are skipped
    if cases == CASES and (record := os.environ.get("PACL_RECORD")):
        counts = json.loads(Path(record).read_text()) if Path(record).exists() else {}
        Path(record).write_text(json.dumps(counts | {reader: {"tried": cases, "refused": refused}}, indent=1) + "\n")


@pytest.mark.parametrize("mask", (False, True))
def test_a_png_of_60000_pixels_a_side_is_refused_unread(mask, good, tmp_path):
    """A decompression bomb: a few bytes that claim any size."""
    data = bytearray((good / "grey.png").read_bytes())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.png has more than 179 million pixels, .*: scale it down"):
        open_image(tmp_path / "bomb.png", mask=mask)


@pytest.mark.filterwarnings("ignore")
def test_weights_marked_as_a_folder_are_refused(good, tmp_path):
    """torch would read nothing there and leave the weights' memory as it was."""
    data = bytearray((good / "ViT-small.pt").read_bytes())
    data[data.index(b"PK\x01\x02") + 38] = 0x10  # the attributes of the directory's first file, which holds weights
    (tmp_path / "ViT-small.pt").write_bytes(data)
    with pytest.raises(ValueError, match=r"ViT-small\.pt doesn't hold weights of small"):
        load_clip("small", tmp_path / "ViT-small.pt", device="cpu")


@pytest.fixture
def little_memory():
    """Two gigabytes more than is taken: a size that isn't refused would take all that the machine has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_checkpoint_of_impossible_size_takes_no_memory(good, tmp_path, little_memory):
    shutil.copy(good / "best.safetensors", tmp_path)
    (tmp_path / "best.json").write_text(json.dumps({"embedder": {"in_dim": 10**9, "out_dim": 10**9}}))
    with pytest.raises(ValueError, match="is corrupt"):
        load_embedder(tmp_path / "best")


@pytest.mark.parametrize("value", (10**9, 0, -1, "2", 1.5))
def test_a_clip_of_impossible_size_is_never_built(value, good, tmp_path, little_memory):
    shutil.copytree(good / "safetensors", tmp_path, dirs_exist_ok=True)
    message = "describes a model of more than" if value == 10**9 else "has a size that isn't a positive whole number"
    sizes = [(tower, key) for tower in ("vision_cfg", "text_cfg") for key in ("layers", "width")]
    sizes += [("vision_cfg", "image_size"), ("text_cfg", "context_length"), ("text_cfg", "vocab_size")]
    for tower, key in sizes:
        changed = SMALL_CLIP | {tower: SMALL_CLIP[tower] | {key: value}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": changed, "preprocess_cfg": {}}))
        with pytest.raises(ValueError, match=rf"open_clip_config\.json {message}"):
            load_clip("own", tmp_path)


@pytest.mark.parametrize("kind", ("captions", "nouns"))
def test_texts_of_another_run_are_refused(kind, good, tmp_path):
    shutil.copytree(good / "features", tmp_path, dirs_exist_ok=True)
    table = json.loads((tmp_path / "texts.json").read_text())["train"]
    wrong = [[0, 3], [2]], [[0, -1], [2]], [[0]], [[0], ["2"]], [[0], [True]], [[0], 2], None
    without = [{kind: table[kind]}, table | {"captions": [[0], []]}]
    for one in (*without, *(table | {kind: rows} for rows in wrong)):
        (tmp_path / "texts.json").write_text(json.dumps({"train": one}))
        with pytest.raises(ValueError, match=r"texts\.json doesn't match the features next to it: remove"):
            Texts(tmp_path, "train")


def add(shard: Path, name: str, data: bytes = b"", **header):
    """Adds a member with whatever its header should claim."""
    member = tarfile.TarInfo(name)
    for key, value in {"size": len(data), **header}.items():
        setattr(member, key, value)
    with tarfile.open(shard, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(data))


def test_members_that_point_elsewhere_are_not_samples(tmp_path):
    """Links and devices give nothing; a name with .. is a key and never a path."""
    shard = write_shard(tmp_path / "inner/0.tar", 0, 1)
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE)):
        add(shard, f"1{number}.jpg", type=kind, linkname="/etc/hostname")
    add(shard, "../4.jpg", jpeg(4))
    add(shard, "../4.txt", b"caption " * 300)
    assert [(key, len(caption.split())) for key, _, caption in samples([shard])] == [("000000000", 2), ("../4", 300)]
    assert [path.name for path in (*tmp_path.iterdir(), *shard.parent.iterdir())] == ["inner", "0.tar"]


@pytest.mark.parametrize("suffix", ("jpg", "txt", "json"))
def test_a_sparse_member_of_a_gigabyte_takes_no_memory(suffix, tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 2, **{f"000000001.{suffix}": None})
    hole = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(2**30)}
    add(shard, f"000000001.{suffix}", pax_headers=hole)
    with tarfile.open(shard) as tar:
        assert shard.stat().st_size < 20_000 and max(member.size for member in tar) == 2**30
    bad = Counter()
    tracemalloc.start()
    try:
        assert good_and_bad_of(shard) == (1, {"too large": 1})
        assert [key for key, *_ in samples([shard], bad=bad)] == ["000000000"] and bad == {"too large": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_member_over_the_limit_spoils_its_sample_unless_nobody_reads_it(tmp_path, monkeypatch):
    shard = write_shard(tmp_path / "0.tar", 0, 3, **{"000000002.npy": bytes(2**20), "000000001.json": bytes(2**20)})
    assert good_and_bad_of(shard) == (3, {}) and len(list(samples([shard]))) == 3
    monkeypatch.setattr("pacl.sources.shards.LARGEST", 2**20 - 1)
    bad = Counter()
    assert good_and_bad_of(shard) == (2, {"too large": 1})
    assert [caption for *_, caption in samples([shard], bad=bad)] == ["caption 0", "caption 2"]
    assert bad == {"too large": 1}


def test_a_compressed_shard_is_corrupt(tmp_path):
    """What it holds may be any number of times its own size."""
    shard = write_shard(tmp_path / "0.tar", 0, 2)
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    bad = Counter()
    assert good_and_bad_of(shard) == (0, {"corrupt shard": 1})
    assert list(samples([shard], bad=bad)) == [] and bad == {"corrupt shard": 1}


def test_a_caption_that_is_not_a_text_is_none():
    assert {caption_of({"json": json.dumps({"caption": c}).encode()}) for c in (5, ["a"], {"a": 1}, None, True)} == {""}


def test_an_array_of_objects_runs_nothing(good, tmp_path):
    class Runs:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    shutil.copy(good / "train.json", tmp_path)
    np.save(tmp_path / "train_images.npy", np.array([Runs()], dtype=object))
    with pytest.raises(ValueError, match=r"train_images\.npy can't be read as an array"):
        read_pairs(tmp_path, "train")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Runs()))  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_script(name, tmp_path):
    """A photo, and a class's folder, may be called anything."""
    write_image(tmp_path / "photos" / name / f"{name}.jpg", 9)
    (photo,), _ = find_photos(tmp_path / "photos" / name)
    images, labels, classes = read_folders(tmp_path / "photos", {"name": "own"})
    assert (images, labels, classes) == ([photo], [0], [name])
    write_labelled(tmp_path, "test", "own", images, labels, classes)
    found = read_labelled(tmp_path, "test", "own")
    assert found.images[0].getpixel((0, 0)) == (9, 9, 9) and found.classes == [name]
