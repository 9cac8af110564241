"""Reading cached tokens, and computing them with ViT-B/16 in bfloat16, on all cores."""

import io
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from pacl.clip import load_clip
from speed.measuring import copy_rate, held, in_own_process, medians, product_rate, row

IMAGES, N, WIDTH = 1000, 196, 768  # a file of ViT-B/16's tokens at 224 pixels, float16: 301 MB
DTYPES = {"ours": "bfloat16", "plain": "float32"}
BATCH, ENCODED, PROMPTS = 256, 16, 64  # images read at once by training; images and texts encoded at once


def reading() -> dict:
    """Batches in a training epoch's order, from a memory map and from an array in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "patches.npy")
        np.save(path, np.random.default_rng(0).random((IMAGES, N * WIDTH), dtype=np.float32).astype(np.float16))
        mapped, array = np.load(path, mmap_mode="r"), np.load(path)  # both now in the page cache
        order = np.random.default_rng(0).permutation(IMAGES)
        batches = [np.sort(part) for part in np.array_split(order, round(IMAGES / BATCH))]
        taken = medians({"ours": partial(gather, mapped, batches), "plain": partial(gather, array, batches)}, 5)
        return row(
            f"an epoch's batches of cached tokens, {array.nbytes / 1e6:.0f} MB",
            taken,
            against="an array in memory instead of a memory map",
            floor_seconds=array.nbytes / copy_rate(),
            floor="their bytes at the rate of a copy in memory",
            bytes_a_second=array.nbytes / taken["ours"],
        )


def gather(array: np.ndarray, batches: list[np.ndarray]) -> None:
    for batch in batches:
        np.asarray(array[batch])


def encoder(dtype: str):
    """ViT-B-16 with random weights, and its images [ENCODED, 3, 224, 224]."""
    images = torch.randn(ENCODED, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return load_clip("ViT-B-16", "random", dtype=dtype, device="cpu"), images


def memory(dtype: str) -> float:
    """GB beyond the loaded encoder and its images; call it in a process of its own."""
    clip, images = encoder(dtype)
    clip.patch_features(images[:1])
    return held(lambda: clip.patch_features(images))


def encoding() -> dict:
    """ViT-B/16's patch tokens in bfloat16 beside float32, and how far they are apart."""
    encoders = {name: encoder(dtype) for name, dtype in DTYPES.items()}
    calls = {name: partial(clip.patch_features, images) for name, (clip, images) in encoders.items()}
    taken = medians(calls, 3)
    half, single = calls["ours"](), calls["plain"]()  # [ENCODED, N, D_v]
    cosines = F.cosine_similarity(half, single, dim=-1)
    return row(
        f"ViT-B/16's patch tokens of {ENCODED} images, bfloat16",
        taken,
        against="float32",
        gigabytes={name: in_own_process(memory, dtype) for name, dtype in DTYPES.items()},
        floor_seconds=ENCODED * operations(N + 1) / product_rate(torch.bfloat16),
        floor="the encoder's operations at a large bfloat16 matrix product's rate",
        seconds_an_image=taken["ours"] / ENCODED,
        lowest_cosine=cosines.min().item(),
        mean_cosine=cosines.mean().item(),
        largest_difference=(half - single).abs().max().item(),
        largest_value=single.abs().max().item(),
    )


def operations(tokens: int, width: int = WIDTH, layers: int = 12) -> int:
    """Of a ViT for one image: in each layer 24 N D^2 for its linear maps and 4 N^2 D for attention."""
    return layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def photos() -> float:
    """Seconds to decode a JPEG of 500 x 375 pixels and resize it for CLIP."""
    file, noise = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(noise).resize((500, 375)).save(file, "JPEG", quality=90)
    preprocess = encoder("bfloat16")[0].preprocess
    return medians({"ours": lambda: preprocess(Image.open(file))}, 20)["ours"]


def texts() -> float:
    """Seconds per caption in ViT-B/16's text encoder in bfloat16."""
    clip, _ = encoder("bfloat16")
    prompts = [f"a photo of {i} dogs beside a red house" for i in range(PROMPTS)]
    return medians({"ours": lambda: clip.text_features(prompts)}, 3)["ours"] / PROMPTS


def measure() -> dict:
    read, encoded = reading(), encoding()
    note = (
        f"In bfloat16 a token's cosine with its float32 self is {encoded['mean_cosine']:.5f} on average and "
        f"{encoded['lowest_cosine']:.5f} at least; the largest difference of a value is "
        f"{encoded['largest_difference']:.3f}, the largest value {encoded['largest_value']:.2f} (random weights)."
    )
    return {
        "threads": torch.get_num_threads(),
        "rows": [read, encoded],
        "seconds_a_photo": photos(),
        "seconds_a_caption": texts(),
        "notes": [note],
    }
