"""What a GPU does a second, as one script of ten minutes at most: features, phi, a training step, dense tokens.

Each row names the share of a large matrix product's rate that it reaches, as its floor. Without a GPU the same script
runs on smaller things on the CPU, which tests it and is written nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import torch

from pacl.clip import load_clip
from pacl.runtime.config import load_params
from pacl.training.train import Run, train_step
from speed import compatibility as phi
from speed import epoch, features
from speed.cost import EPOCHS
from speed.measuring import held, machine, row, waited
from speed.tables import duration, number

GPUS = (1, 8)  # of which the paper's training time is estimated
FLOOR = "the operations at a large matrix product's rate"


@dataclass(frozen=True)
class Sizes:
    """models: open_clip's names; encoded: images at once. phi: B, N, K, D. batch: pairs of a training step, taken in
    `accumulate` parts. photo: H, W of dense inference. matrix: rows of the product that gives the rate.
    """

    models: tuple[str, ...] = ("ViT-B-16", "ViT-L-14")
    encoded: int = 256
    phi: tuple[int, int, int, int] = (1024, 196, 4096, 512)
    batch: int = 4096
    accumulate: int = 8
    photo: tuple[int, int] = (375, 500)
    matrix: int = 8192
    repeats: int = 5


SMALL = Sizes(("ViT-S-32-alt",), 2, (4, 5, 6, 8), 8, 2, (40, 48), 256, 1)


def gigabytes(call: Callable, device: str) -> float:
    """The most memory that the device held during the call, beyond what it held before."""
    if device == "cpu":
        return max(held(call), 1e-9)  # a small call can do with what is there
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def measured(calls: dict[str, Callable], device: str, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Seconds and GB of each call, without those that the GPU has too little memory for."""
    found = {"seconds": {}, "gigabytes": {}}
    for kind, call in calls.items():
        try:
            found["seconds"][kind] = waited(call, sizes.repeats)
            found["gigabytes"][kind] = gigabytes(call, device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return found


def rates(device: str, sizes: Sizes) -> dict[str, float]:
    """Operations per second of a large matrix product by type."""
    found = {}
    for name in ("float32", "bfloat16"):
        matrix = torch.randn(sizes.matrix, sizes.matrix, device=device, dtype=getattr(torch, name))
        found[name] = 2 * sizes.matrix**3 / waited(partial(torch.mm, matrix, matrix), sizes.repeats)
    return found


def encoding(name: str, device: str, sizes: Sizes, rate: dict) -> dict:
    """Patch tokens of images in bfloat16, beside float32."""
    clips = {kind: load_clip(name, "random", dtype=dtype, device=device) for kind, dtype in features.DTYPES.items()}
    ours = clips["ours"]
    images = torch.randn(sizes.encoded, 3, ours.image_size, ours.image_size, device=device)
    found = measured({kind: partial(clip.patch_features, images) for kind, clip in clips.items()}, device, sizes)
    tokens, layers = 1 + (ours.image_size // ours.patch_size) ** 2, len(ours.model.visual.transformer.resblocks)
    return row(
        f"{name}'s patch tokens of {sizes.encoded} images, bfloat16",
        **found,
        against="float32",
        floor_seconds=sizes.encoded * features.operations(tokens, ours.width, layers) / rate["bfloat16"],
        floor=FLOOR,
        images_a_second=sizes.encoded / found["seconds"]["ours"],
    )


def compared_phi(device: str, sizes: Sizes, rate: dict) -> list[dict]:
    """phi forward and backward, in float32 and with bfloat16 products, beside the plain einsums if these fit."""
    patches, text, g = (one.detach().to(device) for one in phi.inputs(*sizes.phi))
    calls = {kind: partial(phi.step, kind, patches.requires_grad_(), text, g) for kind in phi.VARIANTS}
    found = measured(calls, device, sizes)
    B, N, K, D = sizes.phi
    return [
        row(
            f"{words}, B = {B:,}, K = {K:,}, N = {N}, D = {D}",
            **{what: {"ours": of[kind]} | {k: v for k, v in of.items() if k == "plain"} for what, of in found.items()},
            against="two einsums and autograd" if "plain" in found["seconds"] else "",
            floor_seconds=phi.operations(*sizes.phi) / rate[dtype],
            floor=FLOOR,
        )
        for kind, words, dtype in (
            ("ours", "phi of all pairs", "float32"),
            ("bf16", "the same, bf16 products", "bfloat16"),
        )
    ]


def training_step(device: str, sizes: Sizes, rate: dict) -> dict:
    """A step of the paper's settings on random tokens of ViT-B/16's size."""
    large, changes = epoch.LARGE, {"batch_size": sizes.batch, "accumulate": sizes.accumulate}
    settings = load_params("paper", "train").train.model_copy(update=changes)
    run = Run(SimpleNamespace(width=large["in_dim"], text_width=large["out_dim"], steps=1), settings)
    tokens = torch.randn(sizes.batch, large["N"], large["in_dim"], device=device)
    texts, keys = torch.randn(sizes.batch, large["out_dim"], device=device), torch.arange(sizes.batch, device=device)
    step = partial(train_step, run, run.embedder, (tokens, texts, keys), settings, "")
    found = measured({"ours": step}, device, sizes)
    return row(
        f"a training step of {sizes.batch:,} pairs at ViT-B/16's size",
        **found,
        floor_seconds=epoch.operations(**large | {"B": sizes.batch}) / rate["bfloat16"],
        floor=FLOOR,
        seconds_a_pair=found["seconds"]["ours"] / sizes.batch,
    )


def dense(device: str, sizes: Sizes) -> dict:
    """Tokens of one photo, one every 4 pixels, in bfloat16: shifted passes beside one joint pass."""
    clip = load_clip(sizes.models[0], "random", dtype="bfloat16", device=device)
    image = torch.randn(1, 3, *sizes.photo, device=device)
    ways = {"ours": "shifted", "plain": "joint"}
    return row(
        f"{sizes.models[0]}'s tokens of a photo of {sizes.photo[1]} x {sizes.photo[0]}, one every 4, in shifted passes",
        **measured({kind: partial(clip.patch_features, image, 4, passes=ways[kind]) for kind in ways}, device, sizes),
        against="one joint pass",
    )


def texts(name: str, device: str, sizes: Sizes) -> float:
    """Captions that the text encoder takes per second, in bfloat16."""
    clip = load_clip(name, "random", dtype="bfloat16", device=device)
    prompts = [f"a photo of {i} dogs beside a red house" for i in range(sizes.encoded)]
    return sizes.encoded / waited(partial(clip.text_features, prompts), sizes.repeats)


def estimate(encoded: dict, captions: float, step: dict) -> str:
    """How long the paper's epochs would take, computed from the rates."""
    pairs = load_params("paper", "train").train.pairs
    each = 1 / encoded["images_a_second"] + 1 / captions + step["seconds_a_pair"]
    said = ", ".join(f"{duration(EPOCHS * pairs * each / count)} on {count}" for count in GPUS)
    return (
        f"Computed, not run: {EPOCHS} epochs of {pairs:,} pairs, tokens and captions made on the fly, would take "
        f"{said} such GPUs ({number(captions)} captions per second), if the pairs are read and decoded as fast and "
        "several GPUs share the work evenly."
    )


def measure(sizes: Sizes | None = None) -> dict:
    """All rows, on the GPU if there is one, else a small form of them on the CPU."""
    device, name = ("cuda", torch.cuda.get_device_name()) if torch.cuda.is_available() else ("cpu", "no GPU")
    sizes = sizes or (Sizes() if device == "cuda" else SMALL)
    rate = rates(device, sizes)
    encoded = [encoding(name, device, sizes, rate) for name in sizes.models]
    step = training_step(device, sizes, rate)
    said = ", ".join(f"{number(value / 1e12)} in {kind}" for kind, value in rate.items())
    return {
        "machine": machine() | {"processor": f"{machine()['processor']} with {name}"},
        "rows": [*encoded, *compared_phi(device, sizes, rate), step, dense(device, sizes)],
        "notes": [
            f"A large matrix product reaches {said} (10^12 operations per second).",
            estimate(encoded[0], texts(sizes.models[0], device, sizes), step),
        ],
    }
