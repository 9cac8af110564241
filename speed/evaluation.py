"""From cosines at tokens to the confusion matrix at the image's own size, in one thread.

plain: F.interpolate (both upscaling matrices at once where patches overlap), softmax only for a background rule,
argmax, boolean masks, bincount. ours: pacl.label_maps.label_maps and pacl.metrics.confusion_matrix.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE
from pacl.label_maps import TokenLogits, label_maps
from pacl.metrics import confusion_matrix
from pacl.runtime.params import Protocol
from pacl.segment import interpolation_matrix
from speed.measuring import held, in_own_process, medians, product_rate, row

CLASSES, TOKENS, PIXELS = 150, (32, 43), (512, 683)
BATCH, STRIDE, PATCH, SIDE = 32, 4, 8, 64  # the mini world's images, patches of 8 pixels that overlap by half
NONE = Protocol()
ENTROPY = Protocol(logit_scale=20.0, background_rule="entropy", background_threshold=1.5)
TARGETS = {"seconds": 0.5, "gigabytes": 0.1}


def photo() -> tuple[TokenLogits, Tensor]:
    """Random cosines [1, K, h, w] with their upscaling matrices, and a target [1, H, W], a tenth of it ignored."""
    logits, target = drawn(1, CLASSES, TOKENS, PIXELS)
    matrices = (interpolation_matrix(size, grid, 1, 1, grid) for size, grid in zip(PIXELS, TOKENS, strict=True))
    return TokenLogits(logits, *matrices), target


def batch(classes: int) -> tuple[TokenLogits, Tensor]:
    """As `photo`, a batch of the mini world's images."""
    grid = (SIDE - PATCH) // STRIDE + 1
    logits, target = drawn(BATCH, classes, (grid, grid), (SIDE, SIDE))
    matrix = interpolation_matrix(SIDE, grid, STRIDE, PATCH, SIDE)
    return TokenLogits(logits, matrix, matrix), target


def drawn(B: int, K: int, tokens: tuple[int, int], pixels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(0, K, (B, *pixels), generator=rng)
    target[torch.rand(target.shape, generator=rng) < 0.1] = IGNORE
    return torch.randn(B, K, *tokens, generator=rng), target.to(torch.uint8)


def plain_labels(tokens: TokenLogits, protocol: Protocol) -> Tensor:
    """Label maps [B, H, W] from all cosines [B, K, H, W]."""
    size = (len(tokens.rows), len(tokens.columns))
    upscaled = tokens.upscaled() if size == (SIDE, SIDE) else F.interpolate(tokens.logits, size=size, mode="bilinear")
    if protocol.background_rule == "none":
        return upscaled.argmax(1)
    probabilities = (protocol.logit_scale * upscaled).softmax(1)
    is_background = torch.special.entr(probabilities).sum(1) > protocol.background_threshold
    return (probabilities.argmax(1) + 1).masked_fill(is_background, 0)


def plain_confusion_matrix(preds: Tensor, target: Tensor, classes: int) -> Tensor:
    kept = target != IGNORE
    preds, target = preds[kept], target[kept].long()
    for labels in (preds, target):
        if len(labels[(labels < 0) | (labels >= classes)]):
            raise ValueError("a label is outside the classes.")
    return torch.bincount(target * classes + preds, minlength=classes**2).reshape(classes, classes)


def both_ways(tokens: TokenLogits, target: Tensor, protocol: Protocol) -> dict:
    """name -> a call that returns the confusion matrix."""
    classes = tokens.logits.shape[1] + (protocol.background_rule != "none")
    return {
        "ours": lambda: confusion_matrix(label_maps(tokens, None, protocol), target, classes),
        "plain": lambda: plain_confusion_matrix(plain_labels(tokens, protocol), target, classes),
    }


CASES = {
    f"label map and confusion matrix, 1 x {PIXELS[0]} x {PIXELS[1]}, {CLASSES} classes": (photo, NONE, TARGETS),
    f"the same, {BATCH} x {SIDE} x {SIDE}, 64 classes": (partial(batch, 64), NONE, {}),
    f"the same, {BATCH} x {SIDE} x {SIDE}, 20 classes and background by entropy": (partial(batch, 20), ENTROPY, {}),
}


def memory(case: str, variant: str) -> float:
    """GB beyond the inputs; call it in a process of its own."""
    torch.set_num_threads(1)
    make, protocol, _ = CASES[case]
    small = TokenLogits(torch.randn(1, 2, 2, 3), torch.ones(4, 2) / 2, torch.ones(5, 3) / 3)
    both_ways(small, torch.zeros(1, 4, 5), NONE)[variant]()  # the libraries' one-time allocations
    return held(both_ways(*make(), protocol)[variant])


def measured(case: str) -> dict:
    make, protocol, targets = CASES[case]
    tokens, target = make()
    calls = both_ways(tokens, target, protocol)
    return row(
        case,
        medians(calls, 7),
        against="everything upscaled, argmax, masks, bincount",
        gigabytes={variant: in_own_process(memory, case, variant) for variant in calls},
        targets=targets,
        floor_seconds=5 * tokens.logits.shape[1] * target.numel() / product_rate(),
        floor="two products, two sums and a comparison for each pixel and class at a large matrix product's rate",
        different_pixels=int((label_maps(tokens, None, protocol) != plain_labels(tokens, protocol)).sum()),
    )


def counting() -> dict:
    """The confusion matrix alone."""
    _, target = photo()
    given = torch.randint(0, CLASSES, target.shape, generator=torch.Generator().manual_seed(1)), target, CLASSES
    calls = {"ours": partial(confusion_matrix, *given), "plain": partial(plain_confusion_matrix, *given)}
    return row(f"confusion matrix alone, {PIXELS[0]} x {PIXELS[1]}", medians(calls, 7), against="masks, bincount")


def measure() -> dict:
    torch.set_num_threads(1)
    return {"threads": 1, "rows": [*map(measured, CASES), counting()]}
