"""bfloat16 where the hardware multiplies in it, float32 where it does not: emulated, bfloat16 takes many times as long
as the float32 beside which it was to save time.
"""

from functools import cache

import torch

CPU_HAS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # torch's names, of x86 and of ARM


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether torch multiplies matrices in bfloat16 on a "cpu" or a "cuda" device by instructions made for it."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported() and any(found.get(name) for name in CPU_HAS)


def available(device_type: str, dtype: str) -> str:
    """What a device computes in where "float32" or "bfloat16" is asked for."""
    return dtype if dtype == "float32" or has_bfloat16(device_type) else "float32"


def autocast(device_type: str, dtype: str) -> torch.autocast:
    """torch's autocast to bfloat16 where that is asked for and available."""
    return torch.autocast(device_type, torch.bfloat16, enabled=available(device_type, dtype) == "bfloat16")
