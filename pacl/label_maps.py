"""Label maps from the cosines of tokens with texts: upscaling, the best class, background rules (paper, section 4)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.clip.texts import ClassTexts
from pacl.data.benchmark import phrases_of
from pacl.runtime.params import Protocol

CPU_TILE_BYTES = 2**21  # of a tile's cosines, a small part of an L3 cache
TILE_BYTES = 2**28  # on other devices, where starting an operation costs more than moving memory


@dataclass(frozen=True)
class TokenLogits:
    """Cosines of tokens with texts, [(B,) M, h, w], and the matrices rows [H, h] and columns [W, w] that upscale them:
    how much each pixel takes of each token, few of which are not zero.
    """

    logits: Tensor
    rows: Tensor
    columns: Tensor

    def upscaled(self) -> Tensor:
        """The cosines of the pixels, [(B,) M, H, W]."""
        return self.rows @ self.logits @ self.columns.T


def label_maps(tokens: TokenLogits, texts: ClassTexts | None, protocol: Protocol) -> Tensor:
    """Label maps int64 [(B,) H, W]: `predict` of the upscaled cosines, a tile at a time.

    texts: None where each class has one phrase. A tile multiplies only the tokens that its pixels use, so memory holds
    no more than the label maps and the cosines of one tile and of its columns of tokens.
    """
    return label_maps_by(tokens, texts, [protocol])[0]


@torch.no_grad()
def label_maps_by(tokens: TokenLogits, texts: ClassTexts | None, protocols: Sequence[Protocol]) -> Tensor:
    """`label_maps` by several protocols, which may differ in logit scale and background rule: int64 [P, (B,) H, W]."""
    H, W = len(tokens.rows), len(tokens.columns)
    grids = tokens.logits.float().contiguous()
    labels = torch.empty(len(protocols), *grids.shape[:-3], H, W, dtype=torch.long, device=grids.device)
    images, height, width = _tile(grids, H, W)
    row_bands, column_bands = _bands(tokens.rows, height), _bands(tokens.columns, width)
    parts = grids.view(-1, *grids.shape[-3:]).split(images), labels.view(len(protocols), -1, H, W).split(images, dim=1)
    for grid, label in zip(*parts, strict=True):
        for x, tokens_x, weights_x in column_bands:
            band = grid[..., tokens_x] @ weights_x.T  # [images, M, h, a tile's columns]
            for y, tokens_y, weights_y in row_bands:
                tile = weights_y @ band[..., tokens_y, :]  # [images, M, a tile's rows, its columns]
                for of_protocol, found in zip(label, predictions(tile, texts, protocols), strict=True):
                    of_protocol[:, y, x] = found
    return labels


@torch.no_grad()
def predict(logits: Tensor, texts: ClassTexts | None, protocol: Protocol) -> Tensor:
    """Label maps int64 [..., H, W] of cosines [..., M, H, W]: the class of largest softmax of logit_scale * cosine.

    The softmax is over phrases, and a class has the probability of its best phrase (as in SCLIP's evaluation).
    Where cosines are equal, the first phrase wins; where they differ by rounding of float32 only, either may.
    texts: None where each class has one phrase.
    The protocol's background_rule makes a pixel background: "entropy" where the distribution over classes has more than
    background_threshold nats (paper: 1.5), "probability" where the best class has less than background_threshold
    (SCLIP's and TCL's evaluations), "none" nowhere. Background is label 0 and moves the classes up by one, unless texts
    list it: then class 0 is the background. Raises ValueError where texts have another number of phrases than logits.
    """
    return next(predictions(logits, texts, [protocol]))


def predictions(logits: Tensor, texts: ClassTexts | None, protocols: Sequence[Protocol]) -> Iterator[Tensor]:
    """`predict` by several protocols; the best class is the same for all."""
    phrase_index = texts.phrase_index if texts else None
    _check_phrases(phrase_index, logits.shape[-3])
    logits = logits.float()
    largest, best = _largest(logits)
    labels = best if _one_each(phrase_index) else phrase_index.to(best.device)[best]
    if any(protocol.background_rule != "none" for protocol in protocols):
        lower = logits - largest.unsqueeze(-3)
        moved = labels if texts and texts.background_listed else labels + 1
    for protocol in protocols:
        if protocol.background_rule == "none":
            yield labels
            continue
        below = lower * protocol.logit_scale
        if protocol.background_rule == "entropy":
            is_background = entropy(best_phrase(below, phrase_index, -3)) > protocol.background_threshold
        else:  # the largest of a softmax is one over the sum of exp(logit - largest)
            is_background = below.exp_().sum(-3).reciprocal_() < protocol.background_threshold
        yield moved.masked_fill(is_background, 0)


def idle_rule(protocol: Protocol, names: Sequence[str]) -> str:
    """Why the protocol's background rule can't make any pixel background, and the nearest threshold that can; "" if it
    can, or if there is no rule. names: the classes', as `class_texts` takes them.

    The best of M phrases has a probability of at least 1 / M, and the entropy over K classes is at most ln K nats.
    """
    rule, threshold = protocol.background_rule, protocol.background_threshold
    count = sum(len(phrases_of(name)) for name in names) if rule == "probability" else len(names)
    if (
        rule == "none"
        or count > 1
        and (threshold > 1 / count if rule == "probability" else threshold < math.log(count))
    ):
        return ""
    if count == 1:
        return "a single text leaves nothing to compare, so no pixel becomes background: name other things, too"
    if rule == "probability":
        known = f"the best of {count} phrases always has a probability of 1/{count} or more"
        nearest = f"at least {math.floor(1000 / count + 1) / 1000:g}"
    else:
        known = f"the entropy over {count} classes is never above {math.log(count):.3f} nats"
        nearest = f"at most {math.floor(1000 * math.log(count)) / 1000:g}"
    return f"{known}, so no pixel becomes background: use a threshold of {nearest}"


def entropy(below: Tensor, dim: int = -3) -> Tensor:
    """Nats [..., H, W] of the softmax over classes of logits [..., K, H, W], from how far each is below the largest."""
    weights = below.exp()  # H = log Z - sum(w x) / Z, with w = exp(x), Z = sum(w)
    total = weights.sum(dim)
    return total.log() - weights.mul_(below).sum(dim).div_(total)


def best_phrase(scores: Tensor, phrase_index: Tensor | None, dim: int) -> Tensor:
    """Each class's largest score over its phrases, M -> K along dim. Raises ValueError if phrase_index is not [M]."""
    _check_phrases(phrase_index, scores.shape[dim])
    if _one_each(phrase_index):
        return scores
    phrases_of = [(phrase_index == k).nonzero()[:, 0].to(scores.device) for k in range(int(phrase_index.max()) + 1)]
    return torch.stack([scores.index_select(dim, phrases).amax(dim=dim) for phrases in phrases_of], dim=dim)


def _one_each(phrase_index: Tensor | None) -> bool:
    """Whether each class has one phrase, in the order of classes."""
    return phrase_index is None or phrase_index.tolist() == list(range(len(phrase_index)))


def _check_phrases(phrase_index: Tensor | None, phrases: int) -> None:
    if phrase_index is not None and len(phrase_index) != phrases:
        raise ValueError(f"phrase_index has {len(phrase_index)} phrases, but there are scores for {phrases}.")


def _largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """The largest score over phrases and its phrase, [..., M, H, W] -> twice [..., H, W]; the first where tied.

    On a CPU by pooling with pixels as channels, which compares a vector of pixels at once; max takes one at a time.
    """
    if scores.device.type != "cpu":
        return scores.max(-3)
    *batch, M, H, W = scores.shape
    pixels = scores.reshape(-1, M, 1, H * W).permute(0, 3, 1, 2)  # [B, H * W, M, 1], channels last
    largest, best = F.max_pool2d(pixels, (M, 1), return_indices=True)
    return largest.view(*batch, H, W), best.view(*batch, H, W)


def _tile(grids: Tensor, H: int, W: int) -> tuple[int, int, int]:
    """The most images, rows and columns that a tile may have."""
    phrases = grids.shape[-3]
    pixels = (CPU_TILE_BYTES if grids.device.type == "cpu" else TILE_BYTES) // (4 * phrases)
    width = min(W, max(256, math.isqrt(pixels)))  # long rows, so that vectors are full
    height = min(H, max(1, pixels // width))
    return max(1, pixels // (height * width)), height, width


def _bands(weights: Tensor, most: int) -> list[tuple[slice, slice, Tensor]]:
    """Splits the rows of a matrix [pixels, tokens] into equal bands of at most `most`; for each: its rows, the tokens
    they use, that block.
    """
    size = -(-len(weights) // -(-len(weights) // most))
    bands = []
    for start in range(0, len(weights), size):
        block = weights[start : start + size]
        used = block.any(dim=0).nonzero()
        tokens = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + size), tokens, block[:, tokens].contiguous()))
    return bands
