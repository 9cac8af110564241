"""Training-free baselines: what published methods read from CLIP's last block, one function each.

Each takes the last residual block, its input x [B, 1 + N, D_v] with the class token first, and the grid (h, w) of the
N = h * w patches, and returns a replacement for the block's output, which then passes CLIP's final LayerNorm and
projection. q, k, v are the block's queries, keys and values of ln_1(x), of d numbers per head; out is its output
projection.

All but `clip` need open_clip's block with torch's MultiheadAttention. Memory is linear in N; `naclip`, whose attention
takes a mask, computes large grids by blocks of queries.
To add a method: write its function, and name it in LAST_BLOCKS and in MethodName of pacl.runtime.params.
"""

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURHOOD_STD = 5.0  # in patches; NACLIP's setting for all benchmarks
PAIRS_AT_ONCE = 2**28  # of a query and a key, over images and heads: 1 GiB of scores in float32, a smaller mask


def clip(block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """CLIP's own output: y = x + out(softmax(q k^T / sqrt(d)) v), y + mlp(ln_2(y)).

    Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv 2103.00020.
    """
    return whole_block(block, x)


def maskclip(block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each token's own value: out(v).

    Zhou, Loy, Dai, Extract Free Dense Labels from CLIP (MaskCLIP), ECCV 2022, arXiv 2112.01071: drops queries and keys;
    values and output projection become 1 x 1 convolutions. This follows the paper's text, as ClearCLIP does; the
    authors' code for ViTs also adds x and the feed-forward network. Key smoothing is left out.
    """
    attention, D = block.attn, x.shape[-1]
    values = F.linear(block.ln_1(x), attention.in_proj_weight[2 * D :], attention.in_proj_bias[2 * D :])
    return block.ls_1(attention.out_proj(values))


def sclip(block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Correlative self-attention: y = x + out(C v), y + mlp(ln_2(y)), with C = softmax(q q^T / sqrt(d)) + softmax(k k^T
    / sqrt(d)).

    Wang, Mei, Yuille, SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference, ECCV 2024, arXiv
    2312.01597. It adds the two softmaxes instead of averaging them and keeps residuals and feed-forward network.
    """
    q, k, v = _heads(block, x)
    attended = F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
    return _after_attention(block, x, attended)


def naclip(block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Keys and neighbours: out(softmax(k k^T / sqrt(d) + G) v), G the `neighbourhood`; no residual, no feed-forward.

    Hajimiri, Ben Ayed, Dolz, Pay Attention to Your Neighbours: Training-Free Open-Vocabulary Semantic Segmentation
    (NACLIP), WACV 2025, arXiv 2404.08181, with its reduced last block. Beyond PAIRS_AT_ONCE it computes blocks of
    queries, each with its rows of G: for a photo of 1024 x 2048 pixels at stride 4, G alone would need 62 GiB. That is
    exact, because each softmax is over one query's keys.
    """
    _, k, v = _heads(block, x)
    sides = [side.to(k.device) for side in gaussians(grid)]
    queries = max(PAIRS_AT_ONCE // k[..., 0].numel(), 1)
    attended, tokens = [], torch.arange(k.shape[2], device=k.device)
    for some, part in zip(tokens.split(queries), k.split(queries, dim=2), strict=True):
        bias = neighbourhood(some, *sides).to(k)
        attended.append(F.scaled_dot_product_attention(part, k, v, attn_mask=bias))
    return _output(block, torch.cat(attended, dim=2))


def clearclip(block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Query-query attention: out(softmax(q q^T / sqrt(d)) v); no residual, no feed-forward network.

    Lan et al., ClearCLIP: Decomposing CLIP Representations for Dense Vision-Language Inference, ECCV 2024, arXiv
    2407.12442.
    """
    q, _, v = _heads(block, x)
    return _output(block, F.scaled_dot_product_attention(q, q, v))


LAST_BLOCKS = {"clip": clip, "maskclip": maskclip, "sclip": sclip, "naclip": naclip, "clearclip": clearclip}


def whole_block(block: nn.Module, x: Tensor) -> Tensor:
    """open_clip's block, computed with less time and memory: torch's MultiheadAttention holds the weights of all N x N
    pairs or, for several images, projects queries, keys and values one token at a time.
    """
    if type(block) is not ResidualAttentionBlock:
        return block(x)
    return _after_attention(block, x, F.scaled_dot_product_attention(*_heads(block, x)))


def check_last_blocks(visual: nn.Module, names: list[str]) -> None:
    """Raises ValueError for an unknown name, and for a CLIP whose last block can't be replaced."""
    unknown = [name for name in names if name not in LAST_BLOCKS]
    if unknown:
        raise ValueError(f"there is no last block {unknown[0]!r}: use one of {', '.join(LAST_BLOCKS)}.")
    others = [name for name in names if name != "clip"]
    plain = isinstance(visual, VisionTransformer) and type(visual.transformer.resblocks[-1]) is ResidualAttentionBlock
    if others and not plain:
        raise ValueError(f"{others[0]} can't replace this CLIP's last block: use clip, or a ViT such as ViT-B-16.")


def neighbourhood(tokens: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """NACLIP's G for some tokens, int64 [n], 0 for the class token -> [n, 1 + h * w]: exp(-(distance in patches)^2 / (2
    std^2)), 0 to and from the class token.

    rows [h, h], columns [w, w]: the grid's `gaussians`, on the tokens' device.
    """
    patches = tokens - 1  # -1 for the class token: any patch, because `near` sets its bias to 0
    near = rows[patches // len(columns)] * (tokens > 0)[:, None]  # [n, h]
    return F.pad((near[:, :, None] * columns[patches % len(columns), None]).flatten(1), (1, 0))


def gaussians(grid: tuple[int, int]) -> list[Tensor]:
    """exp(-distance^2 / (2 std^2)) between a grid's rows [h, h] and between its columns [w, w]: the factors of the
    Gaussian in two dimensions.
    """
    places = [torch.arange(n) for n in grid]
    return [torch.exp(-((one[:, None] - one) ** 2) / (2 * NEIGHBOURHOOD_STD**2)) for one in places]


def _heads(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v, each [B, heads, 1 + N, d]."""
    attention = block.attn
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)  # [B, 1 + N, 3 D_v]
    return projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def _after_attention(block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of the block: the residual, then the feed-forward network with its own."""
    x = x + _output(block, attended)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _output(block: nn.Module, attended: Tensor) -> Tensor:
    """[B, heads, 1 + N, d] -> [B, 1 + N, D_v]."""
    return block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
