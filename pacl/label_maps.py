"""Label maps from the cosines of tokens with texts: upscaling, the best class, background rules (paper, section 4)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.runtime.params import Protocol

BACKGROUND_RULES = ("none", "entropy", "probability")
CPU_TILE_BYTES = 2**21  # of a tile's cosines: a small part of an L3 cache
TILE_BYTES = 2**28  # on other devices, where starting an operation costs more than memory traffic


@torch.no_grad()
def label_maps(
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    protocol: Protocol,
    *,
    phrase_index: Tensor | None = None,
    background_listed: bool = False,
) -> Tensor:
    """Label maps int64 [(B,) H, W], `predict` of the upscaled cosines rows @ logits @ columns.T, a tile at a time.

    logits: cosines [(B,) M, h, w] of tokens with phrases. rows, columns: [H, h] and [W, w], a pixel's weights of tokens
    that lie near each other. Only these tokens are multiplied, and beside the label maps no more is in memory than the
    cosines of one tile and of its columns of tokens.
    """
    H, W = len(rows), len(columns)
    grids = logits.float().contiguous()
    labels = torch.empty(*logits.shape[:-3], H, W, dtype=torch.long, device=logits.device)
    images, height, width = _tile(grids, H, W)
    row_bands, column_bands = _bands(rows, height), _bands(columns, width)
    parts = (t.view(-1, *t.shape[t.ndim - n :]).split(images) for t, n in ((grids, 3), (labels, 2)))
    for grid, label in zip(*parts, strict=True):
        for x, tokens_x, weights_x in column_bands:
            band = grid[..., tokens_x] @ weights_x.T  # [images, M, h, a tile's columns]
            for y, tokens_y, weights_y in row_bands:
                label[:, y, x] = predict(
                    weights_y @ band[..., tokens_y, :],  # [images, M, a tile's rows, its columns]
                    protocol.logit_scale,
                    protocol.background_rule,
                    protocol.background_threshold,
                    phrase_index=phrase_index,
                    background_listed=background_listed,
                )
    return labels


@torch.no_grad()
def predict(
    logits: Tensor,
    logit_scale: float,
    background: str = "none",
    threshold: float = 0.0,
    *,
    phrase_index: Tensor | None = None,
    background_listed: bool = False,
) -> Tensor:
    """Label maps int64 [..., H, W] of cosines [..., M, H, W]: the class of the largest softmax of logit_scale * cosine.

    The softmax is over phrases, and a class has the probability of its best (as in SCLIP's evaluation).
    Of equal cosines the first phrase's wins; of those that differ by no more than float32's rounding, either may.
    phrase_index: the class of each phrase, [M], if classes have several.
    background: "none"; "entropy", where the classes' distribution has more than `threshold` nats (paper: 1.5);
    "probability", where the best class has less than `threshold` (SCLIP's and TCL's evaluations).
    Background is label 0 and moves the classes up by one, unless background_listed: then class 0 is background already.
    Raises ValueError for an unknown rule and for phrase_index not [M].
    """
    if background not in BACKGROUND_RULES:
        raise ValueError(f"background must be one of {', '.join(BACKGROUND_RULES)}, not {background!r}.")
    _check_phrases(phrase_index, logits.shape[-3])
    logits = logits.float()
    largest, best = _largest(logits)
    labels = best if _one_each(phrase_index) else phrase_index.to(best.device)[best]
    if background == "none":
        return labels
    below = (logits - largest.unsqueeze(-3)).mul_(logit_scale)
    if background == "entropy":
        is_background = entropy(best_phrase(below, phrase_index, -3)) > threshold
    else:  # the largest of a softmax is one over the sum of exp(logit - largest)
        is_background = below.exp_().sum(-3).reciprocal_() < threshold
    return (labels if background_listed else labels + 1).masked_fill(is_background, 0)


def entropy(below: Tensor, dim: int = -3) -> Tensor:
    """Nats [..., H, W] of the softmax over classes of logits [..., K, H, W], from how far each is below the largest."""
    weights = below.exp()  # H = log Z - sum(w x) / Z, with w = exp(x), Z = sum(w)
    total = weights.sum(dim)
    return total.log() - weights.mul_(below).sum(dim).div_(total)


def best_phrase(scores: Tensor, phrase_index: Tensor | None, dim: int) -> Tensor:
    """Each class's largest score over its phrases: M -> K along dim. Raises ValueError for phrase_index not [M]."""
    _check_phrases(phrase_index, scores.shape[dim])
    if _one_each(phrase_index):
        return scores
    phrases_of = [(phrase_index == k).nonzero()[:, 0].to(scores.device) for k in range(int(phrase_index.max()) + 1)]
    return torch.stack([scores.index_select(dim, phrases).amax(dim=dim) for phrases in phrases_of], dim=dim)


def _one_each(phrase_index: Tensor | None) -> bool:
    """Whether each class has one phrase, in the classes' order."""
    return phrase_index is None or phrase_index.tolist() == list(range(len(phrase_index)))


def _check_phrases(phrase_index: Tensor | None, phrases: int) -> None:
    if phrase_index is not None and len(phrase_index) != phrases:
        raise ValueError(f"phrase_index is of {len(phrase_index)} phrases, but there are scores of {phrases}.")


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score over phrases and its phrase, [..., M, H, W] -> twice [..., H, W]; of equal ones the first.

    On a CPU by pooling with pixels as channels: it compares a whole vector of pixels, where max takes one at a time.
    """
    if scores.device.type != "cpu":
        return scores.max(-3)
    *batch, M, H, W = scores.shape
    pixels = scores.reshape(-1, M, 1, H * W).permute(0, 3, 1, 2)  # [B, H * W, M, 1], the channels side by side
    largest, best = F.max_pool2d(pixels, (M, 1), return_indices=True)
    return largest.view(*batch, H, W), best.view(*batch, H, W)


def _tile(grids: Tensor, H: int, W: int) -> tuple[int, int, int]:
    """Images, and rows and columns of their pixels, of a tile, at most."""
    phrases = grids.shape[-3]
    pixels = (CPU_TILE_BYTES if grids.device.type == "cpu" else TILE_BYTES) // (4 * phrases)
    width = min(W, max(256, math.isqrt(pixels)))  # long rows, of which vectors are made
    height = min(H, max(1, pixels // width))
    return max(1, pixels // (height * width)), height, width


def _bands(weights: Tensor, most: int) -> list[tuple[slice, slice, Tensor]]:
    """Of a matrix [pixels, tokens], for `most` pixels at a time or, so that parts are equal, a few less: these, the
    tokens that they use, their part of it.
    """
    bands, parts = [], -(-len(weights) // most)
    size = -(-len(weights) // parts)
    for start in range(0, len(weights), size):
        part = weights[start : start + size]
        used = part.any(dim=0).nonzero()
        tokens = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + size), tokens, part[:, tokens].contiguous()))
    return bands
