"""Label maps from the cosines of tokens with texts: upscaling, the best class, background rules (paper, section 4)."""

import torch
from torch import Tensor

from pacl.params import Protocol

BACKGROUND_RULES = ("none", "entropy", "probability")
CPU_TILE = 64  # pixels along a side: the cosines with 150 phrases are 2.4 MB, a small part of an L3 cache
TILE = 512  # on other devices, where starting an operation costs more than memory traffic


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
    cosines of one tile, with a pixel's phrases side by side, as its best is found fastest.
    """
    H, W, tile = len(rows), len(columns), CPU_TILE if logits.device.type == "cpu" else TILE
    grids = logits.float().movedim(-3, -1).contiguous()  # [(B,) h, w, M]
    labels = torch.empty(*logits.shape[:-3], H, W, dtype=torch.long, device=logits.device)
    row_bands, column_bands = _bands(rows, tile), _bands(columns, tile)
    for grid, label in zip(grids.view(-1, *grids.shape[-3:]), labels.view(-1, H, W), strict=True):
        for y, tokens_y, weights_y in row_bands:
            band = torch.tensordot(weights_y, grid[tokens_y], dims=1)  # [tile, w, M]
            for x, tokens_x, weights_x in column_bands:
                label[y, x] = predict(
                    weights_x @ band[:, tokens_x],  # [tile, tile, M]
                    protocol.logit_scale,
                    protocol.background_rule,
                    protocol.background_threshold,
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
    if background not in BACKGROUND_RULES:
        raise ValueError(f"background must be one of {', '.join(BACKGROUND_RULES)}, not {background!r}.")
    logits = logits.float()
    _check_phrases(phrase_index, logits.shape[dim])
    best = _argmax(logits, dim)
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


def _argmax(scores: Tensor, dim: int) -> Tensor:
    """On a CPU numpy's takes a fraction of torch's time, and no copy is made."""
    return scores.argmax(dim) if scores.device.type != "cpu" else torch.from_numpy(scores.detach().numpy().argmax(dim))


def _bands(weights: Tensor, size: int) -> list[tuple[slice, slice, Tensor]]:
    """Of a matrix [pixels, tokens], for `size` pixels at a time: these, the tokens that they use, their part of it."""
    bands = []
    for start in range(0, len(weights), size):
        part = weights[start : start + size]
        used = part.any(dim=0).nonzero()
        tokens = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + size), tokens, part[:, tokens].contiguous()))
    return bands
