"""phi of all pairs (paper, section 3) with a hand-written gradient, computed for a few images at a time so that they
stay in the processor's cache; of all tensors that grow with images x patches x texts, at most s and u are kept.

In directions x and lengths r, with p a patch and t a text:

    x, r, y = p / |p|, |p|, t / |t|  (scoring "cosine")     or p, 1, t  ("dot")
    s       = x . y                                                          [B, N, K]
    w       = r softmax(scale s) over the patches, or r sigmoid(scale s)     [B, N, K]
    v       = sum_n w x                                                      [B, K, D], rarely made
    psi     = v . y / |v|                                                    [B, K], phi is psi / |y|

v . y is sum_n w s. |v|^2 is sum_n w u with u = (x x^T) w, which is cheaper than v for few patches.
Backwards, for g = dL/dpsi, alpha = g / |v| is dL/d(v . y) and beta = -g psi / |v|^2 is 2 dL/d(|v|^2). Then
dL/dw = alpha s + beta u, and the gradient of a patch's weight as a whole is e = w dL/dw. Over the patches of a pair e
sums to 0, because psi does not change when all of its weights grow alike. So softmax's gradient is e itself and needs
no sum, and softmax needs no division by one.

Matrix products can run in bfloat16 where the device supports it (pacl.runtime.precision): in_x and in_w are then x and
w rounded to it, s and u are the products' results, and wide_s and wide_u the same in float32, in which everything else
is computed. With one type they are the same tensors.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pacl.runtime.precision import available

CPU_BLOCK_BYTES = 2**20  # of the largest buffer, if of the products' type: a small part of an L3 cache
BLOCK_ELEMENTS = 2**24  # on other devices, where starting an operation costs more than memory traffic
KEPT_ELEMENTS = 2**26  # of s, 256 MB in float32, and of u: if there are more, the way back computes both again
TINY = 1e-8  # lengths below it count as zero, as in torch.nn.functional.cosine_similarity


def all_pairs(patches: Tensor, text: Tensor, scoring: str, scale: float, activation: str, products: str) -> Tensor:
    """phi of every image with every text, [B, N, D], [K, D] -> [B, K]; computed by the fused kernel below, it equals

        a = attention(patches, text)                          # [B, N, K], pacl.model
        v = torch.einsum("bnk,bnd->bkd", a, patches)          # [B, K, D]
        phi = F.cosine_similarity(v, text, dim=-1)            # [B, K]

    products: "float32", or "bfloat16" where the device supports it.
    """
    text = text.to(_precision(patches, text))
    needed = torch.is_grad_enabled() and (patches.requires_grad or text.requires_grad)
    keep = needed and patches.shape[:2].numel() * len(text) <= KEPT_ELEMENTS
    narrow = available(patches.device.type, products) == "bfloat16"
    cosine, dtype = scoring == "cosine", torch.bfloat16 if narrow else text.dtype
    psi = _AllPairs.apply(patches, directions(text) if cosine else text, cosine, scale, activation, keep, dtype)
    return psi if cosine else psi / length(text)


def matched_only(patches: Tensor, text: Tensor, own: Tensor, scoring: str, scale: float, activation: str) -> Tensor:
    """The cosine of every text [K, D] with each image's patches [B, N, D], averaged for its own text [B, D]: [B, K]."""
    patches, text, own = (t.to(_precision(patches, text)) for t in (patches, text, own))
    cosine = scoring == "cosine"
    scores = scale * (patches @ (directions(own) if cosine else own)[:, :, None]).squeeze(-1)  # [B, N]
    scores = scores / length(patches) if cosine else scores
    weights = scores.softmax(dim=1) if activation == "softmax" else scores.sigmoid()
    return directions((weights[:, None] @ patches).squeeze(1)) @ directions(text).T


def length(vectors: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1, dtype=dtype).clamp_min(TINY)


def directions(vectors: Tensor) -> Tensor:
    return vectors / length(vectors)[..., None]


def gram_is_cheaper(N: int, D: int, K: int, keep: bool) -> bool:
    """Whether u = (x x^T) w takes fewer operations, forward and backward, than v. keep: whether u is kept."""
    by_gram, by_v = N * (D + K), D * K
    return by_gram < (2 * by_v if keep else by_v)


class _AllPairs(torch.autograd.Function):
    """psi [B, K] of patches [B, N, D] and y [K, D]. keep: whether s and u are kept for the way back. products: the type
    of the matrix products' inputs and results; everything else has y's.
    """

    @staticmethod
    def forward(ctx, patches: Tensor, y: Tensor, cosine: bool, scale: float, activation: str, keep: bool, products):
        (B, N, D), K = patches.shape, len(y)
        use_gram = gram_is_cheaper(N, D, K, keep)
        psi, inverse = y.new_empty(2, B, K)  # inverse: 1 / |v|
        y = y.to(products)
        kept_s = y.new_empty(B, N, K) if keep else None
        kept_u = y.new_empty(B, N, K) if keep and use_gram else None
        blocks = _blocks(patches, K, use_gram, psi.dtype, products)
        for images, (x, w, e, wide_s, wide_u, wide_v), (in_x, in_w, s, u, inner, _) in blocks:
            r = _split(patches[images], cosine, x)
            in_x = _as(x, in_x)
            wide_s = _as(_dot(in_x, y, kept_s[images] if keep else s), wide_s)
            _weigh(wide_s, r, scale, activation, w)
            in_w = _as(w, in_w)
            if use_gram:
                u = torch.bmm(torch.bmm(in_x, in_x.mT, out=inner), in_w, out=kept_u[images] if keep else u)
                squared = torch.mul(_as(u, wide_u), w, out=e).sum(dim=1)  # [b, K]
            else:
                squared = _as(torch.bmm(in_w.mT, in_x, out=inner), wide_v).square_().sum(dim=-1)
            inverse[images] = squared.clamp_min_(TINY**2).rsqrt_()
            torch.sum(torch.mul(wide_s, w, out=e), dim=1, out=psi[images]).mul_(inverse[images])
        ctx.save_for_backward(patches, y, psi, inverse, kept_s, kept_u)
        ctx.options = cosine, scale, activation, use_gram
        return psi

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        with torch.autocast(g.device.type, enabled=False):
            gradients = _gradients(g, *ctx.saved_tensors, *ctx.options, ctx.needs_input_grad)
        return *gradients, None, None, None, None, None


def _gradients(g, patches, y, psi, inverse, kept_s, kept_u, cosine, scale, activation, use_gram, needed) -> tuple:
    alpha = (g * inverse)[:, None]  # [B, 1, K]
    beta = (-g * psi * inverse.square()).masked_fill_(inverse > 0.99 / TINY, 0)[:, None]  # a |v| of zero is constant
    d_patches = torch.empty_like(patches, memory_format=torch.contiguous_format) if needed[0] else None
    d_y = torch.zeros_like(y, dtype=psi.dtype) if needed[1] else None
    blocks = _blocks(patches, len(y), use_gram, psi.dtype, y.dtype)
    for images, (x, w, e, wide_s, wide_u, _), (in_x, in_w, s, u, inner, dx) in blocks:
        r = _split(patches[images], cosine, x)
        in_x = _as(x, in_x)
        wide_s = _as(_dot(in_x, y, s) if kept_s is None else kept_s[images], wide_s)
        slope = _weigh(wide_s, r, scale, activation, w)
        in_w = _as(w, in_w)
        if kept_u is not None:
            this_u = kept_u[images]
        elif use_gram:
            this_u = torch.bmm(torch.bmm(in_x, in_x.mT, out=inner), in_w, out=u)
        else:
            this_u = torch.bmm(in_x, torch.bmm(in_w.mT, in_x, out=inner).mT, out=u)
        torch.mul(wide_s, scale * alpha[images], out=e).addcmul_(_as(this_u, wide_u), scale * beta[images]).mul_(w)
        if slope is not None:
            e.mul_(slope)
        along = torch.mul(wide_s, e, out=wide_u).sum(dim=-1, keepdim=True)  # [b, N, 1]
        ds = _as(e.addcmul_(w, alpha[images]), u).view(-1, len(y))
        if needed[1]:
            d_y.add_(ds.T @ in_x.view(-1, len(y.T)))
        if not needed[0]:
            continue
        with _written_to(d_patches[images], psi.dtype) as out:
            dx = out if out.dtype == dx.dtype else dx
            torch.mm(ds, y, out=dx.view(-1, len(y.T)))
            beta_w = _as(torch.mul(w, beta[images], out=wide_u), u)
            if use_gram:
                dx.baddbmm_(torch.bmm(beta_w, in_w.mT, out=inner), in_x)
            else:
                dx.baddbmm_(beta_w, inner)
            _as(dx, out)
            if cosine:  # from dL/dx to dL/dp: x = p / |p| moves only across p, r only along it
                out.addcmul_(x, along, value=-1).div_(r)
    return d_patches, d_y


def _as(tensor: Tensor, buffer: Tensor) -> Tensor:
    """The tensor in the buffer's type: itself, or the buffer, filled with it."""
    return tensor if tensor.dtype == buffer.dtype else buffer.copy_(tensor)


def _split(patches: Tensor, cosine: bool, x: Tensor) -> Tensor | None:
    """Fills x and returns r [b, N, 1], None for 1."""
    if not cosine:
        x.copy_(patches)
        return None
    r = length(patches, x.dtype)[..., None]
    torch.div(patches, r, out=x)
    return r


def _dot(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    torch.mm(x.view(-1, x.shape[-1]), y.T, out=s.view(-1, len(y)))
    return s


def _weigh(s: Tensor, r: Tensor | None, scale: float, activation: str, w: Tensor) -> Tensor | None:
    """Fills w. Returns sigmoid's derivative over sigmoid [b, N, K], or None for softmax, whose gradient needs none."""
    torch.mul(s, scale, out=w)
    if activation == "softmax":
        w.sub_(w.amax(dim=1, keepdim=True)).exp_()
    else:
        w.sigmoid_()
    slope = 1 - w if activation == "sigmoid" else None
    if r is not None:
        w.mul_(r)
    return slope


@contextmanager
def _written_to(target: Tensor, dtype: torch.dtype):
    """A tensor of this type to fill in place of target: target itself if it has that type."""
    tensor = target if target.dtype == dtype else target.new_empty(target.shape, dtype=dtype)
    yield tensor
    if tensor is not target:
        target.copy_(tensor)


def _blocks(patches: Tensor, K: int, use_gram: bool, dtype: torch.dtype, products: torch.dtype):
    """Slices of images, each with the same buffers: three of dtype, four of products, and those for copies in the other
    type, which with one type are some of the former. The largest buffer, [b, N, max(N, D, K)], stays small.
    """
    B, N, D = patches.shape
    on_cpu = CPU_BLOCK_BYTES * torch.get_num_threads() // products.itemsize
    size = max(1, (on_cpu if patches.device.type == "cpu" else BLOCK_ELEMENTS) // (N * max(N, D, K)))

    def buffers(dtype: torch.dtype, *shapes) -> list[Tensor]:
        return [torch.empty(min(size, B), *shape, dtype=dtype, device=patches.device) for shape in shapes]

    x, w, e = buffers(dtype, (N, D), (N, K), (N, K))
    s, u, inner = buffers(products, (N, K), (N, K), (N, N) if use_gram else (K, D))
    if dtype == products:
        in_x, in_w, dx, wide_s, wide_u, wide_v = x, w, x, s, u, inner
    else:
        in_x, in_w, dx = buffers(products, (N, D), (N, K), (N, D))
        wide_s, wide_u, wide_v = buffers(dtype, (N, K), (N, K), (0, 0) if use_gram else (K, D))
    for start in range(0, B, size):
        b = min(size, B - start)
        wide, narrow = (x, w, e, wide_s, wide_u, wide_v), (in_x, in_w, s, u, inner, dx)
        yield slice(start, start + b), [buffer[:b] for buffer in wide], [buffer[:b] for buffer in narrow]


def _precision(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
