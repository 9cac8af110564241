"""From patch tokens to label maps: dense tokens, windows, bilinear upscaling, background rules (paper, section 4)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pacl.clip.frozen import FrozenCLIP
from pacl.clip.texts import ClassTexts, class_texts
from pacl.data.benchmark import Benchmark
from pacl.data.images import as_rgb
from pacl.data.prompts import templates
from pacl.label_maps import TokenLogits, best_phrase, label_maps
from pacl.model import VisionEmbedder, similarity_map
from pacl.runtime.params import Protocol

Embed = Callable[[Tensor], Tensor]  # patch features [B, N, D_v] -> patch embeddings [B, N, D]


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Method:
    """A way from patches to the text space: which last block of CLIP to read, and what maps its tokens and the text
    embeddings there.

    embed: `clip.project` or a VisionEmbedder. last_block: a name in pacl.clip.baselines.LAST_BLOCKS; for an embedder,
    the `clip.last_block` it was trained on. embed_text: text features [M, D] -> text embeddings [M, D].
    """

    embed: Embed
    last_block: str
    embed_text: Embed = unchanged


Methods = dict[str, Method]  # by name


def methods_of(clip: FrozenCLIP, embedder: VisionEmbedder, names: list[str]) -> Methods:
    """Methods by name: "pacl" reads the tokens that the embedder was trained on, any other name is a last block of
    pacl.clip.baselines. Moves the embedder to CLIP's device.
    """
    embedder = embedder.to(clip.device)
    pacl = Method(embedder, clip.last_block, embedder.text_embedder)
    return {name: pacl if name == "pacl" else Method(clip.project, name) for name in names}


def benchmark_texts(clip: FrozenCLIP, benchmark: Benchmark, protocol: Protocol) -> ClassTexts:
    """The texts of a benchmark's classes, in the protocol's words and templates."""
    texts = class_texts(clip, benchmark.texts(protocol), templates(protocol.templates))
    return replace(texts, background_listed=benchmark.background_listed(protocol))


def segment(
    clip: FrozenCLIP, method: Method, images: Image.Image | Tensor, texts: ClassTexts, protocol: Protocol
) -> Tensor:
    """Label maps int64 [H, W] (of a batch: [B, H, W]) at the images' own size; images as in `token_logits`.

    Pixels are upscaled and labelled tile by tile, so memory does not grow with M times the size of an image.
    """
    return label_maps(token_logits(clip, {"": method}, images, texts.features, protocol)[""], texts, protocol)


def dense_logits(
    clip: FrozenCLIP, method: Method, images: Image.Image | Tensor, text_features: Tensor, protocol: Protocol
) -> Tensor:
    """The cosine of every pixel with every text, float32 [M, H, W] (of a batch: [B, M, H, W]) at the images' own size;
    arguments as in `token_logits`.
    """
    return token_logits(clip, {"": method}, images, text_features, protocol)[""].upscaled()


@torch.no_grad()
def token_logits(
    clip: FrozenCLIP, methods: Methods, images: Image.Image | Tensor, text_features: Tensor, protocol: Protocol
) -> dict[str, TokenLogits]:
    """Each method's cosines of the tokens with the texts, and the matrices that upscale them to the images' own size.

    images: a PIL image or uint8 [3, H, W] or [B, 3, H, W]. text_features: [M, D], one a phrase.
    Tokens are upscaled bilinearly between the centres of their patches. Where windows overlap (the last one is flush
    with the edge), their cosines are averaged at the pixels of the resized image; an image smaller than a window is
    padded with CLIP's mean colour. With windows, h and w count the tokens of all windows.
    Raises ValueError for images of another type or shape.
    """
    images, single = _batch_of(images)
    H, W = images.shape[2:]
    images = clip.normalize(_resize(images.to(clip.device), protocol))
    resized = images.shape[2:]
    images = _pad(images, protocol.window or clip.patch_size)
    ys, xs, crops = _windows(images, protocol)  # crops: [B * n_y * n_x, 3, ...]
    grid, text_features = clip.grid(*crops.shape[2:], protocol.token_stride), text_features.to(clip.device)
    last_blocks = list(dict.fromkeys(method.last_block for method in methods.values()))
    how = {"passes": protocol.passes, "positions": protocol.positions}
    tokens = clip.patch_features_by(crops, last_blocks, protocol.token_stride, **how)
    rows, columns = (
        upscaling(clip, protocol, *side).to(clip.device) for side in zip((H, W), resized, (ys, xs), grid, strict=True)
    )
    found = {}
    for name, method in methods.items():
        cosines = similarity_map(method.embed(tokens[method.last_block]), method.embed_text(text_features))
        logits = join_windows(cosines, len(ys), len(xs), grid)
        found[name] = TokenLogits(logits[0] if single else logits, rows, columns)
    return found


def thinned(clip: FrozenCLIP, passed: Protocol, tokens: TokenLogits, protocol: Protocol) -> TokenLogits:
    """The logits of a protocol among those of shifted passes of a smaller stride, without windows: of every so many
    rows and columns, which the same patches gave.
    """
    strides = [one.token_stride or clip.patch_size for one in (passed, protocol)]
    if strides[0] == strides[1]:
        return tokens
    logits = tokens.logits[..., :: strides[1] // strides[0], :: strides[1] // strides[0]]
    sizes = len(tokens.rows), len(tokens.columns)
    sides = zip(sizes, resized_size(*sizes, protocol), logits.shape[-2:], strict=True)
    rows, columns = (upscaling(clip, protocol, size, resized, [0], grid) for size, resized, grid in sides)
    return TokenLogits(logits, rows.to(logits.device), columns.to(logits.device))


def patch_class_logits(patch_embeddings: Tensor, text: Tensor, phrase_index: Tensor | None = None) -> Tensor:
    """The cosine of every patch with each class's best phrase, [B, N, D], [M, D] -> [B, N, K], K <= M."""
    return best_phrase(similarity_map(patch_embeddings, text), phrase_index, dim=-1)


def interpolation_matrix(size: int, grid: int, stride: int, patch: int, resized: int) -> Tensor:
    """Weights [size, grid] of bilinear upscaling along one side, from tokens to pixels: the logits of an image are
    R_y L R_x^T.

    The centre of token i lies at i * stride + patch / 2 of `resized` pixels, that of pixel y at (y + 1/2) * resized /
    size; beyond the outermost centres the outermost token alone counts. With stride = patch = 1 and resized = grid this
    is torch's interpolate(mode="bilinear", align_corners=False).
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
    """Weights [size, n * grid] along one side of an image, from the tokens of n windows, window after window, to the
    pixels of the original; windows that overlap are averaged at the pixels of the resized image.

    Averaging along one side and then along the other averages in the plane, because windows lie in a grid.
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


def join_windows(cosines: Tensor, n_y: int, n_x: int, grid: tuple[int, int]) -> Tensor:
    """Token cosines of windows [B * n_y * n_x, h * w, M], laid next to each other: [B, M, n_y * h, n_x * w]."""
    h, w = grid
    windows = cosines.unflatten(0, (-1, n_y, n_x)).unflatten(3, (h, w))  # [B, n_y, n_x, h, w, M]
    return windows.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def _windows(images: Tensor, protocol: Protocol) -> tuple[list[int], list[int], Tensor]:
    """Where windows start along y and x, and all windows, those of an image in a row; without windows, the images."""
    if protocol.window is None:
        return [0], [0], images
    ys, xs = (window_starts(side, protocol.window, protocol.window_stride) for side in images.shape[2:])
    crops = [images[..., y : y + protocol.window, x : x + protocol.window] for y in ys for x in xs]
    return ys, xs, torch.stack(crops, dim=1).flatten(0, 1)


def _pad(images: Tensor, size: int) -> Tensor:
    """At least size x size pixels; to the right and below zeros, which are CLIP's mean colour after normalisation."""
    H, W = images.shape[2:]
    return F.pad(images, (0, max(size - W, 0), 0, max(size - H, 0)))


def resized_size(H: int, W: int, protocol: Protocol) -> tuple[int, int]:
    """Height and width of an image of H x W pixels in a protocol: its short side, but no side above long_side."""
    scale = (protocol.short_side or min(H, W)) / min(H, W)
    scale = min(scale, (protocol.long_side or math.inf) / max(H, W))
    if protocol.resize == "opencv":  # as mmcv rounds
        return int(H * scale + 0.5), int(W * scale + 0.5)
    return round(H * scale), round(W * scale)


def _resize(images: Tensor, protocol: Protocol) -> Tensor:
    """uint8 [B, 3, H, W] -> floats in [0, 1] of the protocol's size, bilinearly."""
    size = resized_size(*images.shape[2:], protocol)
    if size == tuple(images.shape[2:]):
        return images.float() / 255
    if protocol.resize == "opencv":
        return opencv_bilinear(images, size).float() / 255
    return F.interpolate(images.float() / 255, size=size, mode="bilinear", antialias=True)


def opencv_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """What cv2.resize with INTER_LINEAR makes of uint8 [..., H, W], bit for bit: uint8 [..., *size].

    Each pixel has two neighbours a side, however much it shrinks. OpenCV's weights have 11 bits, and it drops bits
    between rows and columns, so that one value in eight differs by one from an exact computation.
    """
    (top, bottom, above, below), (left, right, before, after) = (
        (neighbours.to(images.device) for neighbours in _two_neighbours(old, new))
        for old, new in zip(images.shape[-2:], size, strict=True)
    )
    pixels = images.int()
    rows = (pixels[..., left] * before + pixels[..., right] * after) >> 4  # [..., H, w], times 2^7
    sums = (rows[..., top, :] * above[:, None] >> 16) + (rows[..., bottom, :] * below[:, None] >> 16)  # times 2^2
    return ((sums + 2) >> 2).to(torch.uint8)


def _two_neighbours(old: int, new: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of `new` pixels along a side of `old`: its two neighbours, and their weights of 2048 altogether."""
    position = ((torch.arange(new, dtype=torch.float64) + 0.5) * (1 / (new / old)) - 0.5).float()
    first = position.floor()
    weights = (torch.stack([1 - (position - first), position - first]) * 2048).round().int()
    neighbours = torch.stack([first, first + 1]).long().clamp(0, old - 1)
    return *neighbours, *weights


def _batch_of(images: Image.Image | Tensor) -> tuple[Tensor, bool]:
    if isinstance(images, Image.Image):
        images = torch.from_numpy(np.array(as_rgb(images))).permute(2, 0, 1)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(
            f"images must be a PIL image or uint8 [3, H, W] or [B, 3, H, W], not {images.dtype} {list(images.shape)}."
        )
    return (images[None], True) if images.ndim == 3 else (images, False)
