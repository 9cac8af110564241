"""From patch embeddings to label maps: dense tokens, windows, bilinear upscaling, background (paper, section 4)."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pacl.clip import FrozenCLIP
from pacl.labels import best_phrase, label_maps
from pacl.model import similarity_map
from pacl.params import Protocol


def segment(
    clip: FrozenCLIP,
    embed: Callable[[Tensor], Tensor],
    images: Image.Image | Tensor,
    text: Tensor,
    protocol: Protocol,
    *,
    phrase_index: Tensor | None = None,
    background_listed: bool = False,
) -> Tensor:
    """Label maps int64 [H, W] (of a batch: [B, H, W]) at the images' size; arguments: `dense_logits` and `predict`.

    Pixel rows are upscaled and labelled in blocks, so memory does not grow with the original image's size.
    """
    logits, rows, columns = coarse_logits(clip, embed, images, text, protocol)
    return label_maps(logits, rows, columns, protocol, phrase_index=phrase_index, background_listed=background_listed)


def dense_logits(
    clip: FrozenCLIP, embed: Callable[[Tensor], Tensor], images: Image.Image | Tensor, text: Tensor, protocol: Protocol
) -> Tensor:
    """The cosine of every pixel with every text, float32 [M, H, W] (of a batch: [B, M, H, W]) at the images' own size.

    embed: CLIP's patch features [B, N, D_v] -> patch embeddings [B, N, D]: `clip.project` or a VisionEmbedder.
    images: a PIL image or uint8 [3, H, W] or [B, 3, H, W]. text: [M, D], one a phrase.
    Tokens are upscaled bilinearly between their patches' centres. Where windows overlap, the last one being flush with
    the edge, their cosines are averaged, at the resized image's pixels; an image smaller than a window is padded with
    CLIP's mean colour. Raises ValueError for images of another type or shape.
    """
    logits, rows, columns = coarse_logits(clip, embed, images, text, protocol)
    return rows @ logits @ columns.T


def patch_class_logits(patch_embeddings: Tensor, text: Tensor, phrase_index: Tensor | None = None) -> Tensor:
    """The cosine of every patch with every class's best phrase, [B, N, D], [M, D] -> [B, N, K], K <= M."""
    return best_phrase(similarity_map(patch_embeddings, text), phrase_index, dim=-1)


def interpolation_matrix(size: int, grid: int, stride: int, patch: int, resized: int | None = None) -> Tensor:
    """Weights [size, grid] of bilinear upscaling along one side, from tokens to pixels: an image's logits are R_y L
    R_x^T.

    Token i's centre lies at i * stride + patch / 2 of `resized` pixels (size, if not given), pixel y's at (y + 1/2) *
    resized / size; beyond the outermost
    centres the outermost token counts alone. With stride = patch = 1 it is torch's interpolate(mode="bilinear",
    align_corners=False).
    """
    pixels = (torch.arange(size, dtype=torch.float64) + 0.5) * ((resized or size) / size)
    position = ((pixels - patch / 2) / stride).clamp(0, grid - 1)  # in tokens
    left = position.floor().long().clamp(max=max(grid - 2, 0))
    weights = torch.zeros(size, grid, dtype=torch.float64)
    share = (position - left)[:, None]
    weights.scatter_(1, left[:, None], 1 - share)
    weights.scatter_add_(1, (left[:, None] + 1).clamp(max=grid - 1), share)
    return weights.float()


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side of `size` pixels: every `stride`, the last flush with the edge."""
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


@torch.no_grad()
def coarse_logits(
    clip: FrozenCLIP, embed: Callable[[Tensor], Tensor], images: Image.Image | Tensor, text: Tensor, protocol: Protocol
) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of `dense_logits` before upscaling, on a small grid, [(B,) M, h, w], and the matrices [H, h] and [W,
    w] that upscale them.
    """
    images, single = _batch_of(images)
    H, W = images.shape[2:]
    images = clip.normalize(_resize(images.to(clip.device).float() / 255, protocol.short_side))
    text = text.to(clip.device).float()
    whole = protocol.window is None
    run = _whole_image if whole else _sliding_windows
    logits = run(clip, embed, images, text, protocol)  # [B, M, h, w]
    stride, patch = (protocol.token_stride or clip.patch_size, clip.patch_size) if whole else (1, 1)
    rows, columns = (
        interpolation_matrix(size, grid, stride, patch, resized).to(clip.device)
        for size, grid, resized in zip((H, W), logits.shape[2:], images.shape[2:], strict=True)
    )
    return (logits[0] if single else logits), rows, columns


def _whole_image(clip, embed, images: Tensor, text: Tensor, protocol: Protocol) -> Tensor:
    images = _pad(images, clip.patch_size)
    h, w = clip.grid(*images.shape[2:], protocol.token_stride)
    patch_embeddings = embed(clip.patch_features(images, protocol.token_stride))
    return similarity_map(patch_embeddings, text).transpose(1, 2).reshape(len(images), len(text), h, w)


def _sliding_windows(clip, embed, images: Tensor, text: Tensor, protocol: Protocol) -> Tensor:
    B, _, H, W = images.shape
    window = protocol.window
    images = _pad(images, window)
    total = images.new_zeros(B, len(text), *images.shape[2:])
    count = images.new_zeros(images.shape[2:])
    grid = clip.grid(window, window, protocol.token_stride)[0]
    upscale = interpolation_matrix(window, grid, protocol.token_stride or clip.patch_size, clip.patch_size).to(
        clip.device
    )
    for y in window_starts(images.shape[2], window, protocol.window_stride):
        for x in window_starts(images.shape[3], window, protocol.window_stride):
            inside = (..., slice(y, y + window), slice(x, x + window))
            total[inside] += upscale @ _whole_image(clip, embed, images[inside], text, protocol) @ upscale.T
            count[inside] += 1
    return (total / count)[..., :H, :W]


def _pad(images: Tensor, size: int) -> Tensor:
    """At least size x size pixels; zeros, CLIP's mean colour after normalisation, to the right and below."""
    H, W = images.shape[2:]
    return F.pad(images, (0, max(size - W, 0), 0, max(size - H, 0)))


def _resize(images: Tensor, short_side: int | None) -> Tensor:
    H, W = images.shape[2:]
    if short_side is None or short_side == min(H, W):
        return images
    size = [round(side * short_side / min(H, W)) for side in (H, W)]
    return F.interpolate(images, size=size, mode="bilinear", antialias=True)  # photographs of 4,000 pixels would alias


def _batch_of(images: Image.Image | Tensor) -> tuple[Tensor, bool]:
    if isinstance(images, Image.Image):
        images = torch.from_numpy(np.array(images.convert("RGB"))).permute(2, 0, 1)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(
            f"images must be a PIL image or uint8 [3, H, W] or [B, 3, H, W], not {images.dtype} {list(images.shape)}."
        )
    return (images[None], True) if images.ndim == 3 else (images, False)
