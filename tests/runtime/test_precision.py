"""bfloat16 where the hardware has it, float32 where it would be emulated."""

from types import SimpleNamespace

import pytest
import torch

from pacl.clip import load_clip
from pacl.model import compatibility
from pacl.runtime import precision


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What is found for one processor isn't kept for the next."""
    monkeypatch.setattr(precision, "has_bfloat16", precision.has_bfloat16.__wrapped__)


@pytest.mark.parametrize(
    "mkldnn, capabilities, expected",
    [
        (True, {"avx512_bf16": True, "amx_bf16": False}, True),
        (True, {"avx512_bf16": False, "amx_bf16": True}, True),
        (True, {"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, False),  # emulated
        (False, {"avx2": True}, False),
        (True, {"neon": True, "bf16": True}, True),
        (True, {"neon": True, "sve_bf16": True}, True),
        (False, {"neon": True, "bf16": True}, False),  # the processor has it, but torch doesn't use it
    ],
    ids=["avx512_bf16", "amx", "avx512", "avx2", "arm", "sve", "mac"],
)
def test_a_processor_has_bfloat16_by_its_instructions(monkeypatch, mkldnn, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "?", **capabilities})
    monkeypatch.setattr(precision.torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: mkldnn))
    assert precision.has_bfloat16("cpu") is expected
    assert precision.autocast("cpu", "bfloat16")._enabled is expected
    assert precision.autocast("cpu", "bfloat16").fast_dtype == torch.bfloat16
    assert not precision.autocast("cpu", "float32")._enabled


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_has_bfloat16_where_it_is_not_emulated(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert precision.has_bfloat16("cuda") is native


def test_without_bfloat16_the_result_is_float32s(monkeypatch, tiny_folder):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device_type: False)
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=rng)
    asked, plain = (load_clip("tiny", tiny_folder, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    assert asked.dtype == plain.dtype == "float32"
    assert torch.equal(asked.patch_features(images), plain.patch_features(images))
    patches, text = torch.randn(3, 5, 8, generator=rng), torch.randn(4, 8, generator=rng)
    assert torch.equal(compatibility(patches, text, products="bfloat16"), compatibility(patches, text))
