"""From patch embeddings to label maps: dense tokens, windows, bilinear upscaling, background (paper, section 4)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pacl.clip.frozen import FrozenCLIP
from pacl.data.images import as_rgb
from pacl.label_maps import best_phrase, label_maps
from pacl.model import VisionEmbedder, similarity_map
from pacl.runtime.params import Protocol

Embed = Callable[[Tensor], Tensor]  # patch features [B, N, D_v] -> patch embeddings [B, N, D]


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Method:
    """A way from patches to the text's space: CLIP with this last block, and what maps its tokens and the text's
    embeddings there.

    embed: `clip.project` or a VisionEmbedder. last_block: a name of pacl.clip.baselines.LAST_BLOCKS; for an embedder the
    `clip.last_block` it was trained on. embed_text: text features [M, D] -> text embeddings [M, D].
    """

    embed: Embed
    last_block: str
    embed_text: Embed = unchanged


def segment(
    clip: FrozenCLIP,
    method: Method,
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
    logits, rows, columns = coarse_logits(clip, {"": method}, images, text, protocol)
    return label_maps(
        logits[""], rows, columns, protocol, phrase_index=phrase_index, background_listed=background_listed
    )


def dense_logits(
    clip: FrozenCLIP, method: Method, images: Image.Image | Tensor, text: Tensor, protocol: Protocol
) -> Tensor:
    """The cosine of every pixel with every text, float32 [M, H, W] (of a batch: [B, M, H, W]) at the images' own size.

    images: a PIL image or uint8 [3, H, W] or [B, 3, H, W]. text: [M, D], one a phrase.
    Tokens are upscaled bilinearly between their patches' centres. Where windows overlap, the last one being flush with
    the edge, their cosines are averaged, at the resized image's pixels; an image smaller than a window is padded with
    CLIP's mean colour. Raises ValueError for images of another type or shape.
    """
    logits, rows, columns = coarse_logits(clip, {"": method}, images, text, protocol)
    return rows @ logits[""] @ columns.T


def patch_class_logits(patch_embeddings: Tensor, text: Tensor, phrase_index: Tensor | None = None) -> Tensor:
    """The cosine of every patch with every class's best phrase, [B, N, D], [M, D] -> [B, N, K], K <= M."""
    return best_phrase(similarity_map(patch_embeddings, text), phrase_index, dim=-1)


def interpolation_matrix(size: int, grid: int, stride: int, patch: int, resized: int) -> Tensor:
    """Weights [size, grid] of bilinear upscaling along one side, from tokens to pixels: an image's logits are R_y L
    R_x^T.

    Token i's centre lies at i * stride + patch / 2 of `resized` pixels, pixel y's at (y + 1/2) * resized / size; beyond
    the outermost centres the outermost token counts alone. With stride = patch = 1 and resized = grid it is torch's
    interpolate(mode="bilinear", align_corners=False).
    """
    pixels = (torch.arange(size, dtype=torch.float64) + 0.5) * (resized / size)
    position = ((pixels - patch / 2) / stride).clamp(0, grid - 1)  # in tokens
    left = position.floor().long()
    weights = torch.zeros(size, grid, dtype=torch.float64)
    share = (position - left)[:, None]
    weights.scatter_(1, left[:, None], 1 - share)
    weights.scatter_add_(1, (left[:, None] + 1).clamp(max=grid - 1), share)
    return weights.float()


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """Where windows start along a side of `size` pixels: every `stride`, the last flush with the edge."""
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def upscaling(clip: FrozenCLIP, protocol: Protocol, size: int, resized: int, starts: list[int], grid: int) -> Tensor:
    """Weights [size, n * grid] along one side of an image: from the tokens of n windows, one window's after the
    other's, to the original's pixels; with overlaps averaged at the resized image's pixels.

    Averaging along one side and then the other is averaging in the plane, since windows lie in a grid.
    """
    stride = protocol.token_stride or clip.patch_size
    if protocol.window is None:
        return interpolation_matrix(size, grid, stride, clip.patch_size, resized)
    placed = torch.zeros(max(resized, protocol.window), len(starts), grid)
    for i, start in enumerate(starts):
        placed[start : start + protocol.window, i] = interpolation_matrix(
            protocol.window, grid, stride, clip.patch_size, protocol.window
        )
    average = (placed / placed.sum(dim=(1, 2), keepdim=True)).flatten(1)[:resized]
    return interpolation_matrix(size, resized, 1, 1, resized) @ average


@torch.no_grad()
def coarse_logits(
    clip: FrozenCLIP, methods: dict[str, Method], images: Image.Image | Tensor, text: Tensor, protocol: Protocol
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The logits of `dense_logits` before upscaling: each method's cosines of the tokens, [(B,) M, h, w], and the
    matrices [H, h] and [W, w] that upscale them. With windows, h and w count the tokens of all windows.
    """
    images, single = _batch_of(images)
    H, W = images.shape[2:]
    images = clip.normalize(_resize(images.to(clip.device).float() / 255, protocol.short_side))
    resized = images.shape[2:]
    images = _pad(images, protocol.window or clip.patch_size)
    ys, xs, crops = _windows(images, protocol)  # crops: [B * n_y * n_x, 3, ...]
    grid, text = clip.grid(*crops.shape[2:], protocol.token_stride), text.to(clip.device)
    last_blocks = list(dict.fromkeys(method.last_block for method in methods.values()))
    tokens = clip.patch_features_by(crops, last_blocks, protocol.token_stride, passes=protocol.passes)
    logits = {
        name: _beside(
            similarity_map(method.embed(tokens[method.last_block]), method.embed_text(text)), len(ys), len(xs), grid
        )
        for name, method in methods.items()
    }
    rows, columns = (
        upscaling(clip, protocol, *side).to(clip.device) for side in zip((H, W), resized, (ys, xs), grid, strict=True)
    )
    return ({name: one[0] for name, one in logits.items()} if single else logits), rows, columns


def _windows(images: Tensor, protocol: Protocol) -> tuple[list[int], list[int], Tensor]:
    """Where windows start along y and x, and all of them, an image's in a row; without windows the image itself."""
    if protocol.window is None:
        return [0], [0], images
    ys, xs = (window_starts(side, protocol.window, protocol.window_stride) for side in images.shape[2:])
    crops = [images[..., y : y + protocol.window, x : x + protocol.window] for y in ys for x in xs]
    return ys, xs, torch.stack(crops, dim=1).flatten(0, 1)


def _beside(cosines: Tensor, n_y: int, n_x: int, grid: tuple[int, int]) -> Tensor:
    """Token cosines of windows [B * n_y * n_x, h * w, M] laid beside each other: [B, M, n_y * h, n_x * w]."""
    h, w = grid
    windows = cosines.unflatten(0, (-1, n_y, n_x)).unflatten(3, (h, w))  # [B, n_y, n_x, h, w, M]
    return windows.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


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
        images = torch.from_numpy(np.array(as_rgb(images))).permute(2, 0, 1)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(
            f"images must be a PIL image or uint8 [3, H, W] or [B, 3, H, W], not {images.dtype} {list(images.shape)}."
        )
    return (images[None], True) if images.ndim == 3 else (images, False)


def methods_of(clip: FrozenCLIP, embedder: VisionEmbedder, names: list[str]) -> dict[str, Method]:
    """Methods by name: "pacl" reads the tokens it was trained on, any other is a last block of pacl.clip.baselines. The
    embedder moves to CLIP's device.
    """
    embedder = embedder.to(clip.device)
    pacl = Method(embedder, clip.last_block, embedder.text_embedder)
    return {name: pacl if name == "pacl" else Method(clip.project, name) for name in names}
