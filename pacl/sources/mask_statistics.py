"""What a benchmark's masks alone say: how frequent classes are, how large, and what a grid of patches costs on them.

python -m pacl.sources.mask_statistics MASKS    writes data/voc2012_val.json from a folder with the official masks of
Pascal VOC 2012 val, for the chapter "Do the paper's numbers fit each other?" (paper, section 4).
"""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Masks
from pacl.label_maps import TokenLogits, label_maps
from pacl.metrics import confusion_matrix, mean_iou, patch_labels
from pacl.runtime.config import project_root
from pacl.runtime.files import write_json
from pacl.runtime.params import Protocol
from pacl.runtime.processes import in_parts
from pacl.segment import interpolation_matrix
from pacl.sources.segmentation_sets import benchmark

PATCH, STRIDES = 16, (16, 4)  # pixels; of ViT-B/16, plain and the paper's dense inference
SOURCE = "the 1,449 masks of PASCAL VOC 2012 val (SegmentationClass, with the Berkeley annotations' void label 255)"


def statistics(masks: Masks, benchmarks: dict[str, Benchmark]) -> dict:
    """Each benchmark's pixels and patches of each class, and the mean IoU of perfect patch labels by stride; for each
    image, the pixels of the first benchmark's classes in it.
    """
    parts = in_parts(lambda part: [of_mask(masks[i], benchmarks) for i in part], len(masks))
    rows = list(chain.from_iterable(parts))
    first = next(iter(benchmarks))
    return {
        "benchmarks": {
            name: {
                "classes": list(one.names),
                "pixels": sum(row[name]["pixels"] for row in rows).tolist(),
                "patches": sum(row[name]["patches"] for row in rows).tolist(),
                "perfect patches": {
                    str(stride): mean_iou(sum(row[name][stride] for row in rows)) for stride in STRIDES
                },
            }
            for name, one in benchmarks.items()
        },
        "areas": [row[first]["pixels"][row[first]["pixels"] > 0].tolist() for row in rows],
    }


def of_mask(mask: np.ndarray, benchmarks: dict[str, Benchmark]) -> dict[str, dict]:
    """One mask's counts: benchmark -> {"pixels", "patches", and for each stride the confusion matrix}."""
    found = {}
    for name, one in benchmarks.items():
        target = torch.from_numpy(one.target(mask))
        K = len(one.classes)
        labels = patch_labels(target[None], PATCH)[0]
        found[name] = {
            "pixels": counts(target, K),
            "patches": counts(labels, K),
            **{stride: perfect_patches(target, K, stride) for stride in STRIDES},
        }
    return found


def counts(labels: torch.Tensor, K: int) -> np.ndarray:
    return torch.bincount(labels[labels != IGNORE].flatten().long(), minlength=K).numpy()


def perfect_patches(target: torch.Tensor, K: int, stride: int) -> torch.Tensor:
    """The confusion matrix [K, K] of a model that knows every patch's majority label, upscaled bilinearly."""
    one_hot = F.one_hot(target.long().clamp(max=K), K + 1)[..., :K].permute(2, 0, 1).float()  # [K, H, W]; IGNORE: none
    votes = F.avg_pool2d(one_hot[None], PATCH, stride)[0]  # [K, h, w]
    tokens = F.one_hot(votes.argmax(0), K).permute(2, 0, 1) * (votes.sum(0) > 0)  # without a labelled pixel: none
    sides = zip(target.shape, tokens.shape[1:], strict=True)
    rows, columns = (interpolation_matrix(size, grid, stride, PATCH, size) for size, grid in sides)
    preds = label_maps(TokenLogits(tokens, rows, columns), None, Protocol())
    return confusion_matrix(preds, target, K)


def main(folder: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    if not paths:
        sys.exit(f"{folder} has no masks (*.png): name the folder with the masks of Pascal VOC 2012 val.")
    found = statistics(Masks(paths), {name: benchmark(name, folder, paths) for name in ("voc20", "voc21")})
    command = "python -m pacl.sources.mask_statistics MASKS"
    write_json(project_root() / "data/voc2012_val.json", {"source": SOURCE, "command": command, **found})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python -m pacl.sources.mask_statistics MASKS")
    main(Path(sys.argv[1]))
