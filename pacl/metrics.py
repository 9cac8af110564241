"""What the paper measures: segmentation by one confusion matrix, patch classification by majority labels, and patch
coherence by ROC (paper, sections 3 and 4).
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE


class NoSuchPairs(ValueError):
    """The labelled patches have no pairs that coherence could compare."""


def confusion_matrix(preds: Tensor, target: Tensor, num_classes: int, ignore_index: int = IGNORE) -> Tensor:
    """Counts int64 [K, K] of two label maps of one shape; rows are the target's classes, columns the prediction's.

    Pixels whose target is ignore_index are left out. The sum of the images' matrices is the matrix of the split.
    Raises ValueError for shapes that differ and for a label outside 0 ... num_classes - 1.
    """
    if preds.shape != target.shape:
        raise ValueError(f"preds {list(preds.shape)} and target {list(target.shape)} must have the same shape.")
    preds, target = preds.flatten(), target.flatten()
    ignored = target == ignore_index
    if preds.numel() and not 0 <= preds.min() <= preds.max() < num_classes:
        preds = preds.masked_fill(ignored, 0)
        _check_labels("preds", preds, num_classes)
    rows = target.long().clamp(-1, num_classes).add_(1)  # the first and last row collect labels outside the classes
    pairs = rows.mul_(num_classes).add_(preds.long())
    confmat = torch.bincount(pairs, minlength=(num_classes + 2) * num_classes).reshape(-1, num_classes)[1:-1]
    if ignore_index in range(num_classes):
        confmat[ignore_index] = 0
    if confmat.sum() + ignored.sum() != target.numel():
        _check_labels("target", target[~ignored], num_classes)
    return confmat


def iou_per_class(confmat: Tensor) -> Tensor:
    """Intersection over union of each class, float64 [K]; NaN for a class in neither the target nor the predictions."""
    confmat = _square(confmat)
    intersection = confmat.diagonal()
    return intersection / (confmat.sum(dim=1) + confmat.sum(dim=0) - intersection)


def mean_iou(confmat: Tensor) -> float:
    """Mean of iou_per_class over the classes in the target or the predictions, as mmsegmentation and torchmetrics take
    it: a class that is only predicted counts as 0. NaN if there is none.
    """
    return iou_per_class(confmat).nanmean().item()


def mean_iou_foreground(confmat: Tensor) -> float:
    """`mean_iou` over all classes but the first, the background, which predictions and targets may be."""
    return iou_per_class(confmat)[1:].nanmean().item()


def mean_iou_labelled(confmat: Tensor) -> float:
    """Mean of iou_per_class over the classes in the target, NaN if there is none; on a whole official split, which has
    every class, it is mean_iou.
    """
    return iou_per_class(confmat)[_square(confmat).sum(dim=1) > 0].mean().item()


def pixel_accuracy(confmat: Tensor) -> float:
    """Share of correctly classified pixels (mmseg's aAcc); NaN if there are none."""
    confmat = _square(confmat)
    return (confmat.diagonal().sum() / confmat.sum()).item()


def patch_accuracy(preds: Tensor, labels: Tensor) -> float:
    """Share of labelled patches whose class is right (paper: patch classification); two label tensors of one shape."""
    labelled = labels != IGNORE
    return (preds[labelled] == labels[labelled]).double().mean().item()


def patch_labels(mask: Tensor, patch_size: int) -> Tensor:
    """The majority label of each patch's pixels: mask [B, H, W] -> int64 [B, N], in the order of CLIP's patch tokens.

    Ignored pixels vote too, for IGNORE: a patch that shows mostly ignored background and a little cat is ignored.
    Ties go to the lower label, and IGNORE, the highest, loses them.
    Pixels beyond the last whole patch are dropped, as CLIP's patch convolution drops them.
    Raises ValueError for another shape, a mask smaller than a patch, and a label outside 0 to 255.
    """
    if mask.ndim != 3 or min(mask.shape[1:]) < patch_size:
        raise ValueError(f"mask must be [B, H, W], H and W at least a patch of {patch_size}, not {list(mask.shape)}.")
    mask = mask.long()
    _check_labels("mask", mask, 256)
    B, h, w = len(mask), mask.shape[1] // patch_size, mask.shape[2] // patch_size
    patches = mask[:, : h * patch_size, : w * patch_size].reshape(B, h, patch_size, w, patch_size)
    patches = patches.transpose(2, 3).reshape(B * h * w, patch_size**2)
    row = torch.arange(len(patches), device=mask.device)[:, None] * 256
    votes = torch.bincount((row + patches).flatten(), minlength=len(patches) * 256).reshape(-1, 256)
    return votes.argmax(dim=1).reshape(B, h * w)


def coherence_roc(
    features: Tensor, labels: Tensor, image_ids: Tensor, *, pairs: int = 100_000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Do patches of one class look alike? The cosine of random patch pairs from different images is a score for "same
    class" (paper, section 3; restated so by later papers, such as DiffCut, arXiv 2406.02842, section 4.2).

    features [M, D], labels [M], image_ids [M] -> scores float [pairs], same_class bool [pairs], the two image ids of
    each pair [2, pairs], and the area under the ROC curve.
    Patches labelled IGNORE are left out. Raises ValueError for lengths that differ, NoSuchPairs if all pairs share a
    class, none does, or fewer than two images have a label.
    """
    from sklearn.metrics import roc_auc_score

    if not len(features) == len(labels) == len(image_ids):
        raise ValueError(
            f"{len(features)} features need as many labels and image ids, not {len(labels)} and {len(image_ids)}."
        )
    kept = labels != IGNORE
    features, labels, image_ids = features[kept], labels[kept], image_ids[kept]
    first, second = _pairs_of_different_images(image_ids.cpu().numpy(), pairs, seed)
    same_class = (labels[first] == labels[second]).cpu().numpy()
    if same_class.all() or not same_class.any():
        raise NoSuchPairs(
            "coherence needs same-class and different-class pairs of patches from different images: give more patches."
        )
    parts = zip(first.split(8192), second.split(8192), strict=True)
    scores = [F.cosine_similarity(features[a].float(), features[b].float(), dim=-1) for a, b in parts]
    scores = torch.cat(scores).cpu().numpy()
    of_images = torch.stack([image_ids[first], image_ids[second]]).cpu().numpy()
    return scores, same_class, of_images, float(roc_auc_score(same_class, scores))


def coherence_interval(
    scores: np.ndarray, same_class: np.ndarray, of_images: np.ndarray, seed: int, resamples: int = 200
) -> tuple[float, float]:
    """95 % interval of `coherence_roc`'s area, resampling images: a pair counts as often as both its images do."""
    rng, count = np.random.default_rng(seed), int(of_images.max()) + 1
    _, rank = np.unique(scores, return_inverse=True)
    areas = []
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        weights = drawn[of_images[0]] * drawn[of_images[1]]
        same, other = (np.bincount(rank, weights * kind) for kind in (same_class, ~same_class))
        areas.append(same @ (other.cumsum() - other / 2) / (same.sum() * other.sum()))  # a tie counts half
    low, high = np.nanquantile(areas, [0.025, 0.975])  # a resample may hold pairs of one kind only
    return float(low), float(high)


def bootstrap_interval(
    values: np.ndarray, seed: int, resamples: int = 1000, statistic: Callable[[np.ndarray], float] = np.mean
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a statistic over images: values [M, ...], one row each -> (low, high).

    statistic: a function of resampled rows: the mean, or e.g. mean_iou of the images' summed confusion matrices.
    Raises ValueError if there are no values.
    """
    values = np.asarray(values)
    if len(values) == 0:
        raise ValueError("a bootstrap interval needs at least one value.")
    rng = np.random.default_rng(seed)
    resampled = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _pairs_of_different_images(image_ids: np.ndarray, pairs: int, seed: int) -> tuple[Tensor, Tensor]:
    if len(np.unique(image_ids)) < 2:
        raise NoSuchPairs(
            "coherence compares patches of different images: give labelled patches of at least two images."
        )
    rng = np.random.default_rng(seed)
    found, count = [], 0
    while count < pairs:
        drawn = rng.integers(len(image_ids), size=(2, pairs))
        found.append(drawn[:, image_ids[drawn[0]] != image_ids[drawn[1]]])
        count += found[-1].shape[1]
    first, second = torch.from_numpy(np.concatenate(found, axis=1)[:, :pairs])
    return first, second


def _check_labels(name: str, labels: Tensor, num_classes: int) -> None:
    for outside in labels[(labels < 0) | (labels >= num_classes)][:1].tolist():
        raise ValueError(f"{name} holds the label {outside}, outside the {num_classes} classes 0 to {num_classes - 1}.")


def _square(confmat: Tensor) -> Tensor:
    if confmat.ndim != 2 or confmat.shape[0] != confmat.shape[1]:
        raise ValueError(f"a confusion matrix must be [K, K], not {list(confmat.shape)}.")
    return confmat.double()
