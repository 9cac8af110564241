"""phi of all pairs, forward and backward (paper, section 3.2), in one thread.

plain: the definition as two einsums, which make [B, K, N] and [B, K, D], and autograd. ours: pacl.model.compatibility.
bf16: ours with products="bfloat16". The gradient is the patches'; memory is beyond the inputs and their gradient.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from pacl.model import compatibility
from pacl.runtime import precision
from speed.measuring import held, in_own_process, medians, product_rate, row

SIZES = {  # B, N, K, D
    "B = K = 256, N = 196, D = 512": (256, 196, 256, 512),  # ViT-B/16
    "B = K = 256, N = 64, D = 128": (256, 64, 256, 128),  # the mini world
}
LARGE_BATCH = (1024, 196, 1024, 512)
TARGETS = {"seconds": 0.29, "gigabytes": 0.2}
BF16_TARGET = 0.2
KINDS = {  # of torch's operations, for the profile
    "matrix products": ("mm", "bmm", "baddbmm_"),
    "softmax": ("amax", "sub_", "exp_"),
    "lengths": ("linalg_vector_norm", "div", "div_"),
    "other products and sums of elements": (
        "mul",
        "mul_",
        "addcmul_",
        "add_",
        "sum",
        "square_",
        "rsqrt_",
        "clamp_min_",
    ),
}
LARGE_BATCH_GIGABYTES = 3.0


def plain(patches: Tensor, text: Tensor) -> Tensor:
    scores = torch.einsum("bnd,kd->bkn", F.normalize(patches, dim=-1), F.normalize(text, dim=-1))
    pooled = torch.einsum("bkn,bnd->bkd", (10.0 * scores).softmax(dim=-1), patches)
    return F.cosine_similarity(pooled, text, dim=-1)


VARIANTS = {"ours": compatibility, "plain": plain, "bf16": partial(compatibility, products="bfloat16")}


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
    """GB beyond the inputs and their gradient; call it in a process of its own."""
    torch.set_num_threads(1)
    step(variant, *inputs(2, 3, 2, 4))  # the libraries' one-time allocations
    given = inputs(*size)
    return held(lambda: step(variant, *given)) - given[0].nbytes / 1e9


def operations(B: int, N: int, K: int, D: int) -> int:
    """Scores and their gradient, and of |v|^2 either u, x x^T and their gradients, or v and its gradients."""
    return 2 * B * min(2 * N * K * D + 2 * N * N * (K + D), 5 * N * K * D)


def compared(name: str, size: tuple[int, int, int, int], repeats: int) -> list[dict]:
    """Two rows: ours and bf16, both against plain; ours alone on a processor without bfloat16."""
    given, variants = inputs(*size), [one for one in VARIANTS if one != "bf16" or precision.has_bfloat16("cpu")]
    taken = medians({variant: partial(step, variant, *given) for variant in variants}, repeats)
    gigabytes = {variant: in_own_process(memory, variant, size) for variant in variants}
    rows = {"ours": ("phi of all pairs", torch.float32, TARGETS, {})}
    if "bf16" in variants:
        rows["bf16"] = "the same, bf16 products", torch.bfloat16, {"seconds": BF16_TARGET}, errors(given)
    return [
        row(
            f"{words}, {name}",
            {"ours": taken[variant], "plain": taken["plain"]},
            against="two einsums and autograd",
            gigabytes={"ours": gigabytes[variant], "plain": gigabytes["plain"]},
            targets=targets,
            floor_seconds=operations(*size) / product_rate(dtype),
            floor="the fewest known multiplications at the rate of a large matrix product in float32 or bfloat16",
            **more,
        )
        for variant, (words, dtype, targets, more) in rows.items()
    ]


def errors(given: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """Of bfloat16 products."""
    (phi, gradient), (rounded_phi, rounded_gradient) = (step(variant, *given) for variant in ("ours", "bf16"))
    return {
        "phi_largest_error": (rounded_phi - phi).abs().max().item(),
        "gradient_relative_error": ((rounded_gradient - gradient).norm() / gradient.norm()).item(),
    }


def profile(call, repeats: int = 3) -> dict[str, float]:
    """The share of each of the KINDS in a call's processor time, by torch's profiler; the rest starts operations."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(repeats):
            call()
    taken = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in found.key_averages()}
    shares = {kind: sum(taken.get(name, 0) for name in names) for kind, names in KINDS.items()}
    shares["starting operations"] = sum(taken.values()) - sum(shares.values())
    return {kind: time / sum(taken.values()) for kind, time in shares.items()}


def measure() -> dict:
    """Two rows a size, and the memory of a batch of 1,024."""
    torch.set_num_threads(1)
    rows = [one for name, size in SIZES.items() for one in compared(name, size, repeats=5)]
    large = row(
        "phi of all pairs, B = K = 1,024, N = 196, D = 512",
        {},
        gigabytes={"ours": in_own_process(memory, "ours", LARGE_BATCH)},
        targets={"gigabytes_limit": LARGE_BATCH_GIGABYTES},
    )
    notes = [
        f"With bfloat16 products phi is off by {one['phi_largest_error']:.1g} at most, and the gradient by "
        f"{one['gradient_relative_error']:.1g} of its length (N = 196)."
        for one in rows[:2]
        if "phi_largest_error" in one
    ]
    shares = profile(partial(step, "ours", *inputs(*SIZES["B = K = 256, N = 196, D = 512"])))
    parts = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
    return {"threads": 1, "rows": [*rows, large], "notes": [*notes, f"Of phi's time at N = 196: {parts}."]}
