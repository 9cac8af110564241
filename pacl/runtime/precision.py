"""bfloat16 where the hardware multiplies in it, else float32: emulated bfloat16 is many times slower than float32; and
weights that are numbers.
"""

from functools import cache

import torch

CPU_HAS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # torch's names for x86 and ARM


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether a "cpu" or "cuda" device has instructions for bfloat16 matrix products that torch uses."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(found.get(name) for name in CPU_HAS)


def available(device_type: str, dtype: str) -> str:
    """The type that a device computes in when "float32" or "bfloat16" is requested."""
    return dtype if dtype == "float32" or has_bfloat16(device_type) else "float32"


def autocast(device_type: str, dtype: str) -> torch.autocast:
    """torch's autocast to bfloat16, where that is requested and available."""
    return torch.autocast(device_type, torch.bfloat16, enabled=available(device_type, dtype) == "bfloat16")


def check_weights(module: torch.nn.Module, source) -> None:
    """Raises ValueError for weights that are NaN or infinite: they would give label maps without a word."""
    for name, weight in module.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"{source} holds a weight that is not a finite number, in {name}: copy or train it again.")
