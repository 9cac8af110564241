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
import resource
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
import safetensors.numpy
import safetensors.torch
import torch
import yaml
from helpers.archive import Archive
from helpers.folders import write_flickr8k, write_image
from helpers.small_shards import jpeg, write_shard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pacl.checkpoints import load_embedder, save_embedder
from pacl.clip import load_clip
from pacl.clip.features import Texts, read_features
from pacl.data.benchmark import target_of
from pacl.data.images import Masks, open_image
from pacl.data.prepared import read_labelled, read_pairs, write_labelled, write_pairs
from pacl.model import VisionEmbedder
from pacl.runtime.config import read_yaml
from pacl.sources.caption_sets import COCO, FLICKR8K, captioned
from pacl.sources.classification_sets import read_folders
from pacl.sources.segmentation_sets import benchmark, check_sizes, value_table
from pacl.sources.shards import samples, survey, whole_and_bad
from pacl.tools.photos import find_photos
from pacl.training.resume import Progress, read_state

pytestmark = pytest.mark.usefixtures("one_tokenizer")
CLASSES = 3
MASK = np.arange(24, dtype=np.uint8).reshape(4, 6) % CLASSES
SETTINGS = {
    "deadline": None,
    "database": None,
    "phases": [Phase.generate],
    "suppress_health_check": list(HealthCheck),
    "derandomize": True,
}
NAMES = [
    "a b",
    "it's",
    'say "x"',
    "-rf",
    "--help",
    "猫",
    "кот",
    "é",
    "two\nlines",
    "a,b",
    "100%s",
    "{split}",
    "[x]",
    "💥",
]


@st.composite
def mutated(draw, data: bytes) -> bytes:
    """A file after one to three faults: cut, bits flipped, a block zeroed, doubled or drawn anew, junk added."""
    for _ in range(draw(st.integers(1, 3))):
        fault = draw(st.sampled_from(("cut", "flip", "zero", "double", "random", "header", "junk")))
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        end = start + draw(st.integers(1, 64))
        junk = draw(st.binary(min_size=1, max_size=32))
        if fault == "cut":
            data = data[:start]
        elif fault == "flip":
            flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[start : start + 1])
            data = data[:start] + flipped + data[start + 1 :]
        elif fault == "zero":
            data = data[:start] + bytes(len(data[start:end])) + data[end:]
        elif fault == "double":
            data = data[:end] + data[start:]
        elif fault == "random":
            data = data[:start] + junk + data[start + len(junk) :]
        elif fault == "header":
            data = junk + data[len(junk) :]
        else:
            data += junk
    return data


def image_file(suffix):
    def make(folder):
        path = folder / f"photo.{suffix}"
        Image.fromarray(np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)).save(path, exif=Image.Exif())
        return path

    return make


def mask_file(kind):
    def make(folder):
        image = Image.fromarray(MASK.astype(np.uint16) if kind == "16 bit" else MASK)
        if kind == "palette":
            image.putpalette([7 * k % 256 for k in range(768)])
        image.convert("RGB" if kind == "colours" else image.mode).save(folder / "mask.png")
        return folder / "mask.png"

    return make


def same_image(found, path):
    """Pillow's own reading."""
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert found.mode == "RGB" and found.tobytes() == expected.tobytes()


def read_target(path):
    return target_of(Masks([path])[0], value_table({k: k for k in range(CLASSES)}))


def same_target(found, path):
    """The labels as they were before the damage: a PNG's checksums tell every other file."""
    assert np.array_equal(found, MASK)


def caption_csv(folder):
    return write_flickr8k(folder, names=("a",)) / "captions.txt"


def caption_tokens(folder):
    write_image(folder / "Images/a.jpg")
    (folder / "Flickr8k.token.txt").write_text("".join(f"a.jpg#{i}\tcaption {i} of a .\n" for i in range(5)))
    return folder / "Flickr8k.token.txt"


def caption_json(folder):
    write_image(folder / "train2017/a.jpg")
    rows = [{"id": i, "image_id": 7, "caption": f"caption {i} of a ."} for i in range(5)]
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations/captions_train2017.json"
    path.write_text(json.dumps({"images": [{"id": 7, "file_name": "a.jpg"}], "annotations": rows}))
    return path


def same_csv_captions(found, path):
    """The rows of that image by the csv module."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in list(csv.reader(file))[1:] if row]
    assert found[1] == [[",".join(row[1:]).strip() for row in rows if row[0] == "a.jpg"]]


def same_token_captions(found, path):
    lines = [line.decode().split("\t", 1) for line in path.read_bytes().split(b"\n")]
    assert found[1] == [[line[1].strip() for line in lines if line[0].rpartition("#")[0] == "a.jpg"]]


def same_json_captions(found, path):
    content = json.loads(path.read_bytes())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    rows = sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"]))
    assert found[1] == [[" ".join(row["caption"].split()) for row in rows if names[row["image_id"]] == "a.jpg"]]


def shard_file(folder):
    return write_shard(folder / "0.tar", 0, 2)


def shard_samples(path):
    whole_and_bad(path)
    return list(samples([path]))


def same_samples(found, path):
    """Images and captions are bytes of the file; tar has no checksum of them, so a flipped bit stays."""
    data = path.read_bytes()
    for _, image, caption in found:
        assert image in data and caption and all(word.encode() in data for word in caption.split())


def class_list_file(folder):
    (folder / "classes.txt").write_text("sea, ocean\nsky\nsand\nété\n", encoding="utf-8")
    return folder / "classes.txt"


def same_classes(found, path):
    lines = path.read_bytes().decode("utf-8").splitlines()
    assert found["classes"] == [line.strip() for line in lines if line.strip()]


def yaml_file(folder):
    (folder / "params.yaml").write_text(
        "profiles: [mini]\nmini:\n  train: {epochs: 3, rate: 1.0e-3, day: 2001-01-01}\n"
    )
    return folder / "params.yaml"


def same_yaml(found, path):
    assert repr(found) == repr(yaml.safe_load(path.read_bytes().decode()))


def embedder_file(suffix):
    def make(folder):
        save_embedder(folder / "best", VisionEmbedder(4, 3), {"seed": 1})
        return folder / f"best.{suffix}"

    return make


def same_embedder(found, path):
    expected = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
    assert {name: tensor.numpy().tobytes() for name, tensor in found[0].state_dict().items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    assert repr(found[1]) == repr(json.loads(path.with_suffix(".json").read_bytes()))


STATE = {"weight": torch.arange(12.0).view(3, 4), "step": torch.tensor(5)}


def state_file(folder):
    progress = Progress(folder, {})
    progress.save(1, STATE)
    return progress.good[0]


def same_state(found, path):
    """A checksum covers everything, so whatever is taken is what was written."""
    assert sorted(tensor.numpy().tobytes() for tensor in found[1].values()) == sorted(
        tensor.numpy().tobytes() for tensor in STATE.values()
    )


def array_file(folder):
    write_pairs(folder, "train", np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3), [["a"], ["b"]])
    return folder / "train_images.npy"


def json_file(folder):
    return array_file(folder).with_name("train.json")


def same_array(found, path):
    images = np.load(path.with_name("train_images.npy"))
    assert repr(found[1]) == repr(json.loads(path.with_name("train.json").read_bytes())["captions"])
    assert all(np.array_equal(np.asarray(found[0][i]), images[i]) for i in range(len(images)))


SMALL_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}


def clip_file(name):
    def make(folder):
        weights = small_weights()
        about = {"model_cfg": SMALL_CLIP, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(about, indent=1))
        if name.endswith(".bin"):
            torch.save(weights, folder / name)
        else:
            safetensors.torch.save_file(weights, folder / "open_clip_model.safetensors")
        return folder / name

    return make


def openai_file(folder):
    """A TorchScript archive of weights, as OpenAI's, of an architecture that open_clip knows by the name "small"."""
    (folder / "small.json").write_text(json.dumps(SMALL_CLIP))
    open_clip.add_model_config(folder / "small.json")
    archive = Archive({name: tensor.contiguous() for name, tensor in small_weights().items()})
    torch.jit.save(torch.jit.trace(archive, torch.ones(1)), folder / "ViT-small.pt")
    return folder / "ViT-small.pt"


def small_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return open_clip.CLIP(**SMALL_CLIP).state_dict()


def same_weights(found, path):
    """The weights as they were before the damage: an archive's checksums tell every other file."""
    expected, weights = small_weights(), found.model.state_dict()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


def clip_in(path):
    return load_clip("own", path.parent)


def same_clip(found, path):
    """The weights as safetensors or torch reads them; sizes as the configuration has them."""
    if (path.parent / "open_clip_model.safetensors").exists():
        expected = safetensors.torch.load_file(path.parent / "open_clip_model.safetensors")
    else:
        expected = torch.load(path, map_location="cpu", weights_only=True)
    vision = json.loads((path.parent / "open_clip_config.json").read_bytes())["model_cfg"]["vision_cfg"]
    assert (found.image_size, found.patch_size) == (vision["image_size"], vision["patch_size"])
    weights = found.model.state_dict()
    resized = {"visual.positional_embedding"} if vision["image_size"] != 16 else set()
    assert weights.keys() == expected.keys()
    assert all(equal_bytes(weights[name], expected[name]) for name in weights.keys() - resized)


def equal_bytes(first, second):
    """Equal numbers, of which a flipped bit may have made one a nan."""
    return torch.equal(first.nan_to_num(7.0), second.to(first.dtype).nan_to_num(7.0))


def features_file(name):
    def make(folder):
        rng = np.random.default_rng(0)
        for kind, shape in (("caption_features", (3, 4)), ("noun_features", (2, 2, 4)), ("train_patches", (2, 3, 5))):
            np.save(folder / f"{kind}.npy", rng.normal(size=shape).astype(np.float16))
        table = {"train": {"captions": [[0, 1], [2]], "nouns": [[1], []]}, "captions": ["a", "b", "c"]}
        (folder / "texts.json").write_text(json.dumps(table))
        return folder / name

    return make


def texts_in(path):
    texts = Texts(path.parent, "train")
    for share in (0.0, 1.0):
        texts.draw(np.random.default_rng(0), np.arange(len(texts)), share)
    return texts


def same_texts(found, path):
    table = json.loads((path.parent / "texts.json").read_bytes())["train"]
    assert [found.captions, found.nouns] == [table["captions"], table["nouns"]]
    for array, kind in ((found.caption_features, "caption"), (found.noun_features, "noun")):
        same_features(array, path.parent / f"{kind}_features.npy")


def same_features(found, path):
    """NumPy's own reading, copied instead of mapped."""
    expected = np.load(path)
    assert found.shape == expected.shape and found.tobytes() == expected.tobytes() and found.dtype == np.float16


# reader -> (writes a good file in a folder, reads that path, compares with an independent reading)
READERS = {
    **{f"image, {kind}": (image_file(kind), open_image, same_image) for kind in ("jpg", "png", "webp")},
    **{
        f"mask, {kind}": (mask_file(kind), read_target, same_target)
        for kind in ("grey", "palette", "16 bit", "colours")
    },
    "sizes of image and mask": (mask_file("grey"), lambda path: check_sizes([path], [path]), lambda found, path: None),
    "captions.txt": (caption_csv, lambda path: captioned(path.parent, FLICKR8K), same_csv_captions),
    "token.txt": (caption_tokens, lambda path: captioned(path.parent, FLICKR8K), same_token_captions),
    "COCO captions": (caption_json, lambda path: captioned(path.parents[1], COCO), same_json_captions),
    "shard": (shard_file, shard_samples, same_samples),
    "class list": (class_list_file, lambda path: benchmark("own", path.parent, []), same_classes),
    "params.yaml": (yaml_file, read_yaml, same_yaml),
    **{
        f"checkpoint's {kind}": (embedder_file(kind), lambda path: load_embedder(path.with_suffix("")), same_embedder)
        for kind in ("safetensors", "json")
    },
    "saved state": (state_file, read_state, same_state),
    "prepared json": (json_file, lambda path: read_pairs(path.parent, "train"), same_array),
    "array": (array_file, lambda path: read_pairs(path.parent, "train"), same_array),
    "CLIP's safetensors": (clip_file("open_clip_model.safetensors"), clip_in, same_clip),
    "CLIP's .bin": (clip_file("open_clip_pytorch_model.bin"), clip_in, same_clip),
    "OpenAI's .pt": (openai_file, lambda path: load_clip("small", path, device="cpu"), same_weights),
    "CLIP's configuration": (clip_file("open_clip_config.json"), clip_in, same_clip),
    "cached tokens": (features_file("train_patches.npy"), lambda path: read_features(path, 3), same_features),
    "cached captions": (features_file("caption_features.npy"), texts_in, same_texts),
    "cached nouns": (features_file("noun_features.npy"), texts_in, same_texts),
    "texts.json": (features_file("texts.json"), texts_in, same_texts),
}


def attempt(reader: str, path: Path, data: bytes) -> bool:
    """Whether the file was taken; what isn't must be refused by a sentence that names it."""
    _, read, check = READERS[reader]
    path.unlink(missing_ok=True)  # an array may still be mapped
    path.write_bytes(data)
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        named = path.stem in str(error) or str(error).startswith("a mask holds") or "has no image that" in str(error)
        missing = isinstance(error, FileNotFoundError) and str(path.parent) in str(error)  # a file it speaks of
        assert named or missing, repr(error)
        return False
    check(found, path)
    return True


def fuzz(reader: str, folder: Path, cases: int) -> tuple[int, int]:
    """How many damaged files were tried, and how many of them were refused."""
    path = READERS[reader][0](folder)
    whole, tried = path.read_bytes(), []
    assert attempt(reader, path, whole) or reader == "mask, colours"

    @settings(max_examples=cases, **SETTINGS)
    @given(mutated(whole))
    def one(data):
        tried.append(None)
        tried[-1] = attempt(reader, path, data)

    one()
    return len(tried), tried.count(False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_read_right_or_refused(reader, tmp_path):
    tried, refused = fuzz(reader, tmp_path, 60)
    assert tried >= 60 and (refused or reader == "shard")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_damaged_files(reader, tmp_path):
    cases = int(os.environ.get("PACL_CASES", "2000"))
    tried, refused = fuzz(reader, tmp_path, cases)
    print(f"| {reader} | {tried:,} | {refused:,} |")
    assert tried >= cases
    if record := os.environ.get("PACL_RECORD"):
        counts = json.loads(Path(record).read_text()) if Path(record).exists() else {}
        Path(record).write_text(json.dumps(counts | {reader: {"tried": tried, "refused": refused}}, indent=1) + "\n")


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few bytes that says it has side x side pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("mask", (False, True))
def test_a_png_of_60000_pixels_a_side_is_refused_unread(mask, tmp_path):
    with pytest.raises(ValueError, match=r"bomb\.png can't be read as an image .*decompression bomb"):
        open_image(bomb(tmp_path / "bomb.png", 60_000), mask=mask)


@pytest.mark.filterwarnings("ignore")
def test_weights_marked_as_a_folder_are_refused(tmp_path):
    """torch would read nothing there and leave the weights' memory as it was."""
    path = openai_file(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 38] = 0x10  # the attributes of the directory's first file, which holds weights
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"ViT-small\.pt does not hold weights of small"):
        load_clip("small", path, device="cpu")


@pytest.fixture
def little_memory():
    """Two gigabytes beside what is taken: a size that isn't refused would take all that the machine has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.usefixtures("little_memory")
def test_a_checkpoint_of_impossible_size_takes_no_memory(tmp_path):
    save_embedder(tmp_path / "best", VisionEmbedder(4, 3), {})
    (tmp_path / "best.json").write_text(json.dumps({"embedder": {"in_dim": 10**9, "out_dim": 10**9}}))
    with pytest.raises(ValueError, match="no complete checkpoint"):
        load_embedder(tmp_path / "best")


@pytest.mark.parametrize(
    ("tower", "key", "value"),
    [
        *(("vision_cfg", key, 10**9) for key in ("layers", "width", "image_size")),
        *(("text_cfg", key, 10**9) for key in ("layers", "width", "context_length", "vocab_size")),
        *(("vision_cfg", key, value) for key in ("layers", "patch_size") for value in (0, -1, "2", 1.5)),
    ],
)
@pytest.mark.usefixtures("little_memory")
def test_a_clip_of_impossible_size_is_never_built(tower, key, value, tmp_path):
    path = clip_file("open_clip_config.json")(tmp_path)
    about = json.loads(path.read_text())
    about["model_cfg"][tower][key] = value
    path.write_text(json.dumps(about))
    message = "is of a model with more than .* numbers, which" if value == 10**9 else "no positive whole number"
    with pytest.raises(ValueError, match=rf"open_clip_config\.json (has a size that is )?{message}"):
        load_clip("own", tmp_path)


def test_texts_of_another_run_are_refused(tmp_path):
    path = features_file("texts.json")(tmp_path)
    whole = json.loads(path.read_text())
    for rows in ([[0, 3], [2]], [[0, -1], [2]], [[0], []], [[0]], [[0], ["2"]], [[0], [True]], [[0], 2], None):
        path.write_text(json.dumps(whole | {"train": whole["train"] | {"captions": rows}}))
        with pytest.raises(ValueError, match=r"texts\.json doesn't go with the features beside it: remove"):
            Texts(tmp_path, "train")
    for nouns in ([[2], []], [[-1], []], [["0"], []], [[1]], [1, []], None):
        path.write_text(json.dumps(whole | {"train": whole["train"] | {"nouns": nouns}}))
        with pytest.raises(ValueError, match=r"texts\.json doesn't go with the features beside it: remove"):
            Texts(tmp_path, "train")
    for missing in ("captions", "nouns"):
        path.write_text(json.dumps({"train": {k: v for k, v in whole["train"].items() if k != missing}}))
        with pytest.raises(ValueError, match=r"texts\.json doesn't go with the features beside it: remove"):
            Texts(tmp_path, "train")
    with pytest.raises(ValueError, match="texts.json is no whole JSON"):
        Texts(tmp_path, "validation")


def test_members_that_point_elsewhere_are_no_samples(tmp_path):
    """Links, devices and folders give nothing; a name with .. is a key and never a path."""
    shard = write_shard(tmp_path / "0.tar", 0, 1)
    with tarfile.open(shard, "a") as tar:
        for name, kind in (("1.jpg", tarfile.SYMTYPE), ("2.jpg", tarfile.LNKTYPE), ("3.jpg", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        for name, data in (("../../4.jpg", jpeg(4)), ("../../4.txt", b"caption " * 300)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert [(key, len(caption.split())) for key, _, caption in samples([shard])] == [("000000000", 2), ("../../4", 300)]
    for place in (tmp_path, Path.cwd()):
        assert not any((place / "../.." / f"4.{suffix}").exists() for suffix in ("jpg", "txt"))


def add_sparse(shard: Path, name: str, size: int) -> None:
    """A member that is one hole of that size."""
    member = tarfile.TarInfo(name)
    member.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(size)}
    with tarfile.open(shard, "a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member)


@pytest.mark.parametrize("suffix", ("jpg", "txt", "json"))
def test_a_sparse_member_of_a_gigabyte_takes_no_memory(suffix, tmp_path):
    parts = {f"000000001.{suffix}": None}
    shard = write_shard(tmp_path / "0.tar", 0, 2, **parts)
    add_sparse(shard, f"000000001.{suffix}", 2**30)
    assert shard.stat().st_size < 20_000
    with tarfile.open(shard) as tar:
        assert max(member.size for member in tar) == 2**30
    tracemalloc.start()
    try:
        assert whole_and_bad(shard) == (1, 1)
        bad = Counter()
        assert [key for key, *_ in samples([shard], bad=bad)] == ["000000000"] and bad == {"too large": 1}
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_member_over_the_limit_spoils_its_sample_unless_nobody_reads_it(tmp_path, monkeypatch):
    changes = {"000000002.npy": bytes(5000), "000000001.json": bytes(2**20)}
    shard = write_shard(tmp_path / "0.tar", 0, 3, **changes)
    assert whole_and_bad(shard) == (3, 0) and len(list(samples([shard]))) == 3
    monkeypatch.setattr("pacl.sources.shards.LARGEST", 2**20 - 1)
    bad = Counter()
    assert whole_and_bad(shard) == (2, 1)
    assert [caption for *_, caption in samples([shard], bad=bad)] == ["caption 0", "caption 2"]
    assert bad == {"too large": 1}


def test_a_compressed_shard_is_torn(tmp_path):
    """What it holds may be any number of times its own size."""
    shard = write_shard(tmp_path / "0.tar", 0, 2)
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    bad = Counter()
    assert whole_and_bad(shard) == (0, 1) and list(samples([shard], bad=bad)) == [] and bad == {"torn shard": 1}


@pytest.mark.parametrize("caption", (5, ["a"], {"a": 1}, None, True))
def test_a_caption_that_is_no_text_is_none(caption, tmp_path):
    about = json.dumps({"caption": caption}).encode()
    shard = write_shard(tmp_path / "0.tar", 0, 2, **{"000000000.txt": None, "000000000.json": about})
    assert [found for *_, found in samples([shard])] == ["caption 1"]


def test_a_mark_at_the_beginning_is_no_part_of_a_class(tmp_path):
    (tmp_path / "classes.txt").write_text("sea\nsky\n", encoding="utf-8-sig")
    assert benchmark("own", tmp_path, [])["classes"] == ["sea", "sky"]


def test_an_array_of_objects_runs_nothing(tmp_path):
    class Runs:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    array_file(tmp_path)
    np.save(tmp_path / "train_images.npy", np.array([Runs()], dtype=object))
    with pytest.raises(ValueError, match=r"train_images\.npy is no whole array"):
        read_pairs(tmp_path, "train")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Runs()))  # it would have run
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_script(name, tmp_path):
    """A photo, and a class's folder, may be called anything."""
    write_image(tmp_path / "photos" / name / f"{name}.jpg", 9)
    (photo,) = find_photos(tmp_path / "photos" / name)
    images, labels, classes = read_folders(tmp_path / "photos", {"name": "own"})
    assert (images, labels, classes) == ([photo], [0], [name])
    write_labelled(tmp_path, "test", "own", images, labels, classes)
    found, labels, classes = read_labelled(tmp_path, "test", "own")
    assert found[0].getpixel((0, 0)) == (9, 9, 9) and classes == [name]


def test_an_unreadable_share_of_a_shard_is_counted(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 4)
    shard.write_bytes(shard.read_bytes()[:-12_000])
    counts, note = survey([shard], 0.9)
    assert sum(counts) < 4 and "0.tar" in note
