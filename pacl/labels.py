"""Label maps from the cosines of tokens with texts: upscaling, the best class, background rules (paper, section 4)."""

import math

import torch
from torch import Tensor

from pacl.params import Protocol

BACKGROUND_RULES = ("none", "entropy", "probability")
CPU_TILE_BYTES = 3 * 2**20  # of the cosines: a small part of an L3 cache
TILE = 512  # pixels along a side on other devices, where starting an operation costs more than memory traffic
VECTOR = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8  # float32 numbers that a CPU compares at once
NOTHING = -1e30  # below every cosine


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
    cosines of one tile, with a pixel's phrases side by side and in whole vectors, as its best is found fastest.
    """
    M, H, W = logits.shape[-3], len(rows), len(columns)
    grids = _whole_vectors(logits.float().movedim(-3, -1))  # [(B,) h, w, at least M]
    labels = torch.empty(*logits.shape[:-3], H, W, dtype=torch.long, device=logits.device)
    row_bands, column_bands = (_bands(weights, _tile(grids)) for weights in (rows, columns))
    for grid, label in zip(grids.view(-1, *grids.shape[-3:]), labels.view(-1, H, W), strict=True):
        for y, tokens_y, weights_y in row_bands:
            band = torch.tensordot(weights_y, grid[tokens_y], dims=1)  # [tile, w, M]
            for x, tokens_x, weights_x in column_bands:
                cosines = weights_x @ band[:, tokens_x]  # [tile, tile, at least M]
                label[y, x] = _classes(
                    cosines[..., :M],
                    _argmax(cosines, -1),
                    logit_scale=protocol.logit_scale,
                    background=protocol.background_rule,
                    threshold=protocol.background_threshold,
                    phrase_index=phrase_index,
                    background_listed=background_listed,
                    dim=-1,
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
    dim: int = -3,
) -> Tensor:
    """Label maps int64 [..., H, W] of cosines [..., M, H, W]: the class of the largest softmax of logit_scale * cosine.

    The softmax is over phrases, along dim, and a class has the probability of its best (as in SCLIP's evaluation).
    Of equal cosines the first phrase's wins; of those that differ by no more than float32's rounding, either may.
    phrase_index: the class of each phrase, [M], if classes have several.
    background: "none"; "entropy", where the classes' distribution has more than `threshold` nats (paper: 1.5);
    "probability", where the best class has less than `threshold` (SCLIP's and TCL's evaluations).
    Background is label 0 and moves the classes up by one, unless background_listed: then class 0 is background already.
    Raises ValueError for an unknown rule and for phrase_index not [M].
    """
    logits = logits.float()
    best = _argmax(logits, dim)
    return _classes(
        logits,
        best,
        logit_scale=logit_scale,
        background=background,
        threshold=threshold,
        phrase_index=phrase_index,
        background_listed=background_listed,
        dim=dim,
    )


def _classes(
    logits: Tensor, best: Tensor, *, logit_scale, background, threshold, phrase_index, background_listed, dim: int
) -> Tensor:
    """`predict`, of cosines whose best phrase is known."""
    if background not in BACKGROUND_RULES:
        raise ValueError(f"background must be one of {', '.join(BACKGROUND_RULES)}, not {background!r}.")
    _check_phrases(phrase_index, logits.shape[dim])
    labels = best if _one_each(phrase_index) else phrase_index.to(best.device)[best]
    if background == "none":
        return labels
    below = (logits - logits.gather(dim, best.unsqueeze(dim))).mul_(logit_scale)
    if background == "entropy":
        is_background = entropy(best_phrase(below, phrase_index, dim), dim) > threshold
    else:  # the largest of a softmax is one over the sum of exp(logit - largest)
        is_background = below.exp_().sum(dim).reciprocal_() < threshold
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


def _whole_vectors(grids: Tensor) -> Tensor:
    """Grids [..., M] with more phrases, which are never the best, up to where numpy's argmax compares vectors only and
    not number by number: a multiple of one vector, and four at least.
    """
    M = grids.shape[-1]
    width = M if grids.device.type != "cpu" else max(4 * VECTOR, -(-M // VECTOR) * VECTOR)
    padded = grids.new_full((*grids.shape[:-1], width), NOTHING)
    padded[..., :M] = grids
    return padded


def _argmax(scores: Tensor, dim: int) -> Tensor:
    """On a CPU numpy's takes a fraction of torch's time, and no copy is made."""
    return scores.argmax(dim) if scores.device.type != "cpu" else torch.from_numpy(scores.detach().numpy().argmax(dim))


def _tile(grids: Tensor) -> int:
    """Pixels along a side of a tile, at most."""
    on_cpu = max(1, math.isqrt(CPU_TILE_BYTES // (4 * grids.shape[-1])))
    return on_cpu if grids.device.type == "cpu" else TILE


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
