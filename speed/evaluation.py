"""From cosines at tokens to the confusion matrix at the image's own size: python -m speed.evaluation.

plain: F.interpolate (or, where patches overlap, both upscaling matrices at once), softmax only where a background rule
asks for it, argmax, boolean masks, bincount. ours: pacl.label_maps.label_maps and pacl.metrics.confusion_matrix. One
thread.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.label_maps import label_maps
from pacl.metrics import confusion_matrix
from pacl.runtime.params import Protocol
from pacl.segment import interpolation_matrix
from speed import tables
from speed.measuring import held, in_own_process, medians, product_rate, row

CLASSES, TOKENS, PIXELS = 150, (32, 43), (512, 683)
BATCH, STRIDE, PATCH, SIDE = 32, 4, 8, 64  # the mini world's images, patches of 8 pixels that overlap by half
NONE = Protocol()
ENTROPY = Protocol(logit_scale=20.0, background_rule="entropy", background_threshold=1.5)
TARGETS = {"seconds": 0.5, "gigabytes": 0.1}
FLOOR = "two products, two sums and a comparison for each pixel and class at a large matrix product's rate"


def photo() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cosines [1, K, h, w] at random, their upscaling matrices, and a target [1, H, W], a tenth of it ignored."""
    logits, target = drawn(1, CLASSES, TOKENS, PIXELS)
    rows, columns = (interpolation_matrix(size, grid, 1, 1, grid) for size, grid in zip(PIXELS, TOKENS, strict=True))
    return logits, rows, columns, target


def batch(classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `photo`, but a batch of the mini world's."""
    grid = (SIDE - PATCH) // STRIDE + 1
    logits, target = drawn(BATCH, classes, (grid, grid), (SIDE, SIDE))
    matrix = interpolation_matrix(SIDE, grid, STRIDE, PATCH, SIDE)
    return logits, matrix, matrix, target


def drawn(B: int, K: int, tokens: tuple[int, int], pixels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(0, K, (B, *pixels), generator=rng)
    target[torch.rand(target.shape, generator=rng) < 0.1] = 255
    return torch.randn(B, K, *tokens, generator=rng), target.to(torch.uint8)


def plain_labels(logits: Tensor, rows: Tensor, columns: Tensor, protocol: Protocol) -> Tensor:
    """Label maps [B, H, W] by way of all cosines [B, K, H, W]."""
    if protocol.background_rule == "none" and len(rows) != len(columns):
        upscaled = F.interpolate(logits, size=(len(rows), len(columns)), mode="bilinear", align_corners=False)
    else:
        upscaled = rows @ logits @ columns.T
    if protocol.background_rule == "none":
        return upscaled.argmax(1)
    probabilities = (protocol.logit_scale * upscaled).softmax(1)
    is_background = torch.special.entr(probabilities).sum(1) > protocol.background_threshold
    return (probabilities.argmax(1) + 1).masked_fill(is_background, 0)


def plain_confusion_matrix(preds: Tensor, target: Tensor, classes: int) -> Tensor:
    preds, target = preds.flatten(), target.flatten().long()
    kept = target != 255
    preds, target = preds[kept], target[kept]
    for labels in (preds, target):
        if len(labels[(labels < 0) | (labels >= classes)]):
            raise ValueError("a label is outside the classes.")
    return torch.bincount(target * classes + preds, minlength=classes**2).reshape(classes, classes)


def both_ways(given: tuple, protocol: Protocol) -> dict:
    """name -> a call that gives the confusion matrix."""
    *cosines, target = given
    classes = cosines[0].shape[1] + (protocol.background_rule != "none")
    return {
        "ours": lambda: confusion_matrix(label_maps(*cosines, protocol), target, classes),
        "plain": lambda: plain_confusion_matrix(plain_labels(*cosines, protocol), target, classes),
    }


CASES = {
    f"label map and confusion matrix, 1 x {PIXELS[0]} x {PIXELS[1]}, {CLASSES} classes": (photo, (), NONE, TARGETS),
    f"the same, {BATCH} x {SIDE} x {SIDE}, 64 classes": (batch, (64,), NONE, {}),
    f"the same, {BATCH} x {SIDE} x {SIDE}, 20 classes and background by entropy": (batch, (20,), ENTROPY, {}),
}


def memory(case: str, variant: str) -> float:
    """GB beyond the inputs; to be called in a process of its own."""
    torch.set_num_threads(1)
    make, arguments, protocol, _ = CASES[case]
    both_ways((torch.randn(1, 2, 2, 3), torch.ones(4, 2) / 2, torch.ones(5, 3) / 3, torch.zeros(1, 4, 5)), NONE)[
        variant
    ]()
    return held(both_ways(make(*arguments), protocol)[variant])


def measured(case: str) -> dict:
    make, arguments, protocol, targets = CASES[case]
    given = make(*arguments)
    calls = both_ways(given, protocol)
    elements = given[0].shape[1] * given[-1].numel()
    *cosines, _ = given
    return row(
        case,
        medians(calls, 7),
        against="everything upscaled, argmax, masks, bincount",
        gigabytes={variant: in_own_process(memory, case, variant) for variant in calls},
        targets=targets,
        floor_seconds=5 * elements / product_rate(),
        floor=FLOOR,
        different_pixels=int((label_maps(*cosines, protocol) != plain_labels(*cosines, protocol)).sum()),
    )


def counting() -> dict:
    """The confusion matrix alone."""
    *_, target = photo()
    preds = torch.randint(0, CLASSES, target.shape, generator=torch.Generator().manual_seed(1))
    calls = {
        "ours": lambda: confusion_matrix(preds, target, CLASSES),
        "plain": lambda: plain_confusion_matrix(preds, target, CLASSES),
    }
    return row(f"confusion matrix alone, {PIXELS[0]} x {PIXELS[1]}", medians(calls, 7), against="masks, bincount")


def measure() -> dict:
    torch.set_num_threads(1)
    return {"threads": 1, "rows": [*map(measured, CASES), counting()]}


def main() -> None:
    print(tables.text(measure()["rows"]))


if __name__ == "__main__":
    main()
