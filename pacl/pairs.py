"""phi of all pairs (paper, section 3) with a hand-written gradient, a few images at a time, so that what grows with
images x patches x texts never leaves the processor's cache.

In directions and lengths, with p a patch, t a text and y = t / |t|:

    x, r = p / |p|, |p|  (scoring "cosine")      or p, 1         ("dot")
    c    = scale                                 or scale |t|
    s    = x . y                                                             [B, N, K]
    w    = r softmax(c s) over the patches, or r sigmoid(c s)                [B, N, K]
    v    = sum_n w x                                                         [B, K, D], rarely made
    phi  = v . y / |v|                                                       [B, K]

v . y is sum_n w s. |v|^2 is sum_n w u with u = (x x^T) w, which for few patches costs less than v does.
Backwards, for g = dL/dphi, alpha = g / |v| and beta = -g phi / |v|^2 are dL/d(v . y) and 2 dL/d(|v|^2). Then
dL/dw = alpha s + beta u, and what a patch's weight as a whole gets is e = w dL/dw. Over the patches of a pair e adds up
to 0, as phi does not change when all of v's weights grow alike, so softmax's gradient is e itself and needs no sum.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_BLOCK_ELEMENTS = 2**17  # of one [b, N, K] buffer: three of 512 KB in float32, about an L2 cache
BLOCK_ELEMENTS = 2**24  # on other devices, where starting an operation costs more than memory traffic
TINY = 1e-8  # lengths below it count as zero, as in torch.nn.functional.cosine_similarity


class AllPairs(torch.autograd.Function):
    """phi [B, K] of patches [B, N, D] and text [K, D]. Keeps the inputs and [B, K] numbers for the way back."""

    @staticmethod
    def forward(ctx, patches: Tensor, text: Tensor, scoring: str, scale: float, activation: str) -> Tensor:
        y, lengths, c = _text(text, _precision(patches, text), scoring, scale)
        phi = y.new_empty(len(patches), len(text))
        inverse = torch.empty_like(phi)  # 1 / |v|
        use_gram = gram_is_cheaper(*patches.shape[1:], len(text))
        for images, buffers in _blocks(patches, y):
            s, w, u = buffers
            x, r = _patches(patches[images], y.dtype, scoring)
            _weigh(x, r, y, c, activation, s, w, u)
            squared = (
                torch.bmm(x @ x.mT, w, out=u).mul_(w).sum(1) if use_gram else (w.mT @ x).square_().sum(-1)
            )  # [b, K]
            inverse[images] = squared.clamp_min_(TINY**2).rsqrt_()
            torch.sum(s.mul_(w), dim=1, out=phi[images]).mul_(inverse[images])
        ctx.save_for_backward(patches, text, phi, inverse)
        ctx.options, ctx.use_gram = (scoring, scale, activation), use_gram
        return phi

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        with torch.autocast(g.device.type, enabled=False):
            return (
                *_gradients(g, *ctx.saved_tensors, *ctx.options, ctx.use_gram, ctx.needs_input_grad),
                None,
                None,
                None,
            )


def gram_is_cheaper(N: int, D: int, K: int) -> bool:
    """Whether u by way of x x^T takes fewer operations, forward and backward, than by way of v."""
    return 3 * N * (D + K) < 4 * D * K


def length(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1).clamp_min(TINY)


def _gradients(g, patches, text, phi, inverse, scoring, scale, activation, use_gram, needed) -> tuple:
    y, lengths, c = _text(text, phi.dtype, scoring, scale)
    alpha = g * inverse
    beta = (-g * phi * inverse.square()).masked_fill_(inverse > 0.99 / TINY, 0)  # a |v| that counts as zero is constant
    d_patches = torch.empty_like(patches) if needed[0] else None
    d_y = torch.zeros_like(y) if needed[1] else None
    for images, (s, w, u) in _blocks(patches, y):
        x, r = _patches(patches[images], y.dtype, scoring)
        a_block, b_block = alpha[images, None], beta[images, None]  # [b, 1, K]
        slope = _weigh(x, r, y, c, activation, s, w, u)
        s.mul_(a_block)
        if use_gram:
            s.addcmul_(torch.bmm(x @ x.mT, w, out=u), b_block)
        else:
            beta_v = (w.mT @ x).mul_(b_block.mT)  # [b, K, D]
            s.baddbmm_(x, beta_v.mT)
        e = s.mul_(w)
        total = e.sum(dim=-1, keepdim=True) if scoring == "cosine" else None  # [b, N, 1]
        if slope is not None:
            e.mul_(slope)
        ds = e.mul_(c).addcmul_(w, a_block).flatten(0, 1)
        if needed[0]:
            dx = (ds @ y).view_as(x)
            if use_gram:
                dx.baddbmm_(torch.mul(w, b_block, out=u) @ w.mT, x)
            else:
                dx.baddbmm_(w, beta_v)
            d_patches[images] = dx if total is None else _through_length(dx, x, r, total)
        if needed[1]:
            d_y.addmm_(ds.T, x.flatten(0, 1))
    return d_patches, None if d_y is None else _text_gradient(d_y, y, lengths, g * phi, scoring).to(text.dtype)


def _through_length(dx: Tensor, x: Tensor, r: Tensor, total: Tensor) -> Tensor:
    """dL/dp from dL/dx and r dL/dr: x = p / |p| moves across p only, r = |p| along it."""
    along = torch.linalg.vecdot(dx, x)[..., None]
    return dx.addcmul_(x, total - along).div_(r)


def _text_gradient(d_y: Tensor, y: Tensor, lengths: Tensor, g_phi: Tensor, scoring: str) -> Tensor:
    """dL/dt from dL/dy. Along t phi changes through c = scale |t| only: with "cosine" not at all, with "dot" by what is
    left of dL/dy along y when sum_b g phi, which comes from the y in v . y, is taken away."""
    along = torch.linalg.vecdot(d_y, y) if scoring == "cosine" else g_phi.sum(dim=0)
    return (d_y - y * along[:, None]) / lengths


def _weigh(x, r, y, c, activation: str, s: Tensor, w: Tensor, scratch: Tensor) -> Tensor | None:
    """Fills s and w. Returns what sigmoid's gradient needs besides them."""
    torch.mm(x.flatten(0, 1), y.T, out=s.view(-1, s.shape[-1]))
    torch.mul(s, c, out=scratch)
    if activation == "softmax":
        torch.softmax(scratch, dim=1, out=w)
    else:
        torch.sigmoid(scratch, out=w)
    slope = 1 - w if activation == "sigmoid" else None
    if r is not None:
        w.mul_(r)
    return slope


def _blocks(patches: Tensor, y: Tensor):
    """Slices of images, each with three buffers [b, N, K] that are used again for the next."""
    B, N, K = *patches.shape[:2], len(y)
    elements = CPU_BLOCK_ELEMENTS * torch.get_num_threads() if patches.device.type == "cpu" else BLOCK_ELEMENTS
    size = min(B, max(1, elements // (N * K)))
    buffers = y.new_empty(3, size, N, K)
    for start in range(0, B, size):
        yield slice(start, start + size), buffers[:, : B - start].unbind()


def _patches(patches: Tensor, dtype: torch.dtype, scoring: str) -> tuple[Tensor, Tensor | None]:
    patches = patches.to(dtype)
    if scoring == "dot":
        return patches.contiguous(), None
    r = length(patches)[..., None]  # [b, N, 1]
    return patches / r, r


def _text(text: Tensor, dtype: torch.dtype, scoring: str, scale: float) -> tuple[Tensor, Tensor, Tensor | float]:
    text = text.to(dtype)
    lengths = length(text)[:, None]  # [K, 1]
    return text / lengths, lengths, scale if scoring == "cosine" else scale * lengths.T


def _precision(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
