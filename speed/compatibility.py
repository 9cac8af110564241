"""phi of all pairs, forward and backward, beside a plain autograd version: python -m speed.compatibility.

plain: the definition as two einsums, which make [B, K, N] and [B, K, D]. ours: pacl.model.compatibility. bf16: ours
with products="bfloat16". One thread; the gradient is that of the patches, and memory is beyond the inputs and their
gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.model import compatibility
from speed import tables
from speed.measuring import held, in_own_process, medians, product_rate, row

MINI_WORLD, VIT_B_16, LARGE_BATCH = (256, 64, 256, 128), (256, 196, 256, 512), (1024, 196, 1024, 512)  # B, N, K, D
TARGETS = {"seconds": 0.45, "gigabytes": 0.2}
BF16_TARGET = 0.2
LARGE_BATCH_GIGABYTES = 3.0
FLOOR = "the fewest known multiplications at the rate of a large matrix product in float32 or bfloat16"


def plain(patches: Tensor, text: Tensor) -> Tensor:
    scores = torch.einsum("bnd,kd->bkn", F.normalize(patches, dim=-1), F.normalize(text, dim=-1))
    pooled = torch.einsum("bkn,bnd->bkd", (10.0 * scores).softmax(dim=-1), patches)
    return F.cosine_similarity(pooled, text, dim=-1)


def bf16(patches: Tensor, text: Tensor) -> Tensor:
    return compatibility(patches, text, products="bfloat16")


VARIANTS = {"ours": compatibility, "plain": plain, "bf16": bf16}


def inputs(B: int, N: int, K: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    """Patches [B, N, D], texts [K, D] and dL/dphi [B, K]."""
    rng = torch.Generator().manual_seed(0)
    patches, text, g = (torch.randn(*size, generator=rng) for size in ((B, N, D), (K, D), (B, K)))
    return patches.requires_grad_(), text, g


def step(variant: str, patches: Tensor, text: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """phi [B, K] and the gradient of the patches [B, N, D]."""
    phi = VARIANTS[variant](patches, text)
    return phi.detach(), torch.autograd.grad(phi, patches, g)[0]


def memory(variant: str, size: tuple[int, int, int, int]) -> float:
    """GB beyond the inputs and their gradient; to be called in a process of its own."""
    torch.set_num_threads(1)
    step(variant, *inputs(2, 3, 2, 4))  # what the libraries take once
    given = inputs(*size)
    return held(lambda: step(variant, *given)) - given[0].nbytes / 1e9


def operations(B: int, N: int, K: int, D: int) -> int:
    """Scores and their gradient, and of |v|^2 either u, x x^T and their gradients, or v and its gradients."""
    return 2 * B * min(2 * N * K * D + 2 * N * N * (K + D), 5 * N * K * D)


def compared(name: str, size: tuple[int, int, int, int], repeats: int) -> list[dict]:
    """Two rows: ours, and ours with bf16 products, both against plain."""
    given = inputs(*size)
    taken = medians({variant: lambda v=variant: step(v, *given) for variant in VARIANTS}, repeats)
    gigabytes = {variant: in_own_process(memory, variant, size) for variant in VARIANTS}
    words = dict(against="two einsums and autograd", floor=FLOOR)
    (phi, gradient), (rounded_phi, rounded_gradient) = (step(variant, *given) for variant in ("ours", "bf16"))
    return [
        row(
            f"phi of all pairs, {name}",
            _pair(taken, "ours"),
            gigabytes=_pair(gigabytes, "ours"),
            targets=TARGETS,
            floor_seconds=operations(*size) / product_rate(),
            **words,
        ),
        row(
            f"the same, bf16 products, {name}",
            _pair(taken, "bf16"),
            gigabytes=_pair(gigabytes, "bf16"),
            targets={"seconds": BF16_TARGET},
            floor_seconds=operations(*size) / product_rate(torch.bfloat16),
            phi_largest_error=(rounded_phi - phi).abs().max().item(),
            gradient_relative_error=((rounded_gradient - gradient).norm() / gradient.norm()).item(),
            **words,
        ),
    ]


def _pair(numbers: dict[str, float], ours: str) -> dict[str, float]:
    return {"ours": numbers[ours], "plain": numbers["plain"]}


def measure() -> dict:
    """Rows at the mini world's size and ViT-B/16's, and the memory of a batch of 1,024."""
    torch.set_num_threads(1)
    large = row(
        "phi of all pairs, B = K = 1,024, N = 196, D = 512",
        {},
        gigabytes={"ours": in_own_process(memory, "ours", LARGE_BATCH)},
        targets={"gigabytes_limit": LARGE_BATCH_GIGABYTES},
    )
    rows = [
        *compared("B = K = 256, N = 196, D = 512", VIT_B_16, repeats=3),
        *compared("B = K = 256, N = 64, D = 128", MINI_WORLD, repeats=5),
        large,
    ]
    rounded = rows[1]
    note = (
        f"With bfloat16 products phi is off by {rounded['phi_largest_error']:.1g} at most, and the gradient by "
        f"{rounded['gradient_relative_error']:.1g} of its length (N = 196)."
    )
    return {"threads": 1, "rows": rows, "notes": [note]}


def main() -> None:
    print(tables.text(measure()["rows"]))


if __name__ == "__main__":
    main()
