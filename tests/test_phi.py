"""The hand-written gradient of phi against numerical differentiation and against autograd through the definition."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from pacl import phi as phi_module
from pacl.model import attention, compatibility

OPTIONS = [
    dict(scoring=scoring, activation=activation, scale=2.0)
    for scoring, activation in itertools.product(("cosine", "dot"), ("softmax", "sigmoid"))
]
FEW_PATCHES, MANY_PATCHES = (3, 3, 5, 8), (3, 7, 4, 3)  # B, N, K, D


def by_definition(patches, text, **options):
    pooled = torch.einsum("bnk,bnd->bkd", attention(patches, text, **options), patches)
    return F.cosine_similarity(pooled, text, dim=-1)


def random_pair(B, N, K, D, dtype=torch.double):
    rng = torch.Generator().manual_seed(N)
    patches = torch.randn(B, N, D, generator=rng, dtype=torch.double) + 0.5
    text = torch.randn(K, D, generator=rng, dtype=torch.double)
    return patches.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['scoring']}-{o['activation']}")
@pytest.mark.parametrize("sizes", [FEW_PATCHES, MANY_PATCHES], ids=["few patches", "many"])
@pytest.mark.parametrize("kept", [0, 2**26], ids=["again", "kept"])
def test_gradient_is_the_numerical_one(monkeypatch, sizes, options, kept):
    B, N, K, D = sizes
    monkeypatch.setattr(phi_module, "KEPT_ELEMENTS", kept)
    assert phi_module.gram_is_cheaper(N, D, K, keep=kept > 0) == (sizes == FEW_PATCHES)
    monkeypatch.setattr(phi_module, "CPU_BLOCK_BYTES", 8 * 2 * N * max(N, D, K))  # a block of two, then one of one
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    patches, text = random_pair(*sizes)
    torch.testing.assert_close(compatibility(patches, text, **options), by_definition(patches, text, **options))
    assert torch.autograd.gradcheck(lambda p, t: compatibility(p, t, **options), (patches, text))


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("N", [49, 196], ids=["few patches", "many"])
def test_float32_is_exact_to_1e_5_at_real_sizes(N, scale):
    patches, text = random_pair(2, N, 40, 128)
    g = torch.randn(2, 40, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    expected = by_definition(patches, text, scale=scale)
    expected_gradient = torch.autograd.grad(expected, patches, g)[0]
    single = patches.detach().float().requires_grad_()
    phi = compatibility(single, text.detach().float(), scale=scale)
    gradient = torch.autograd.grad(phi, single, g.float())[0]
    torch.testing.assert_close(phi.double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-5 * expected_gradient.abs().max(), rtol=0)


def by_rounded_definition(patches, text, scoring, activation, scale):
    """phi in double precision, but of rounded directions and scores."""
    x, y = (F.normalize(t, dim=-1) if scoring == "cosine" else t for t in (patches, text))
    s = (x.bfloat16().double() @ y.bfloat16().double().T).bfloat16().double()  # [B, N, K]
    w = (scale * s).softmax(dim=1) if activation == "softmax" else (scale * s).sigmoid()
    w = w * patches.norm(dim=-1, keepdim=True) if scoring == "cosine" else w
    return (w * s).sum(dim=1) / torch.einsum("bnk,bnd->bkd", w, x).norm(dim=-1) / y.norm(dim=-1)


class ProductTypes(TorchDispatchMode):
    """The types of all inputs of matrix products."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket.__name__.strip("_") in ("mm", "bmm", "addmm", "baddbmm"):
            self.seen += [t.dtype for t in arguments if isinstance(t, torch.Tensor)]
        return function(*arguments, **options or {})


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o['scoring']}-{o['activation']}")
@pytest.mark.parametrize("N", [9, 60], ids=["few patches", "many"])
@pytest.mark.parametrize("kept", [0, 2**26], ids=["again", "kept"])
@pytest.mark.usefixtures("bfloat16_everywhere")
def test_bfloat16_products_round_what_goes_into_them_and_little_else(monkeypatch, N, options, kept):
    monkeypatch.setattr(phi_module, "KEPT_ELEMENTS", kept)
    sizes = 5, N, 24, 32
    assert phi_module.gram_is_cheaper(N, 32, 24, keep=kept > 0) == (N == 9)
    patches, text = random_pair(*sizes)
    g = torch.randn(5, 24, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    exact = by_definition(patches, text, **options)
    expected = torch.autograd.grad(exact, (patches, text), g)
    single = [t.detach().float().requires_grad_() for t in (patches, text)]
    with ProductTypes() as products:
        phi = compatibility(*single, products="bfloat16", **options)
        gradients = torch.autograd.grad(phi, single, g.float())
    assert len(products.seen) >= 14 and set(products.seen) == {torch.bfloat16}, "seven products, forward and backward"
    assert {t.dtype for t in (phi, *gradients)} == {torch.float32}
    assert (phi - exact).abs().max() > 5e-4, "not rounded"
    assert (phi - by_rounded_definition(patches, text, **options)).abs().max() < 1.5e-3
    bound = 0.01 if options["scoring"] == "cosine" else 0.07  # scores far above 1 lose more
    for got, right in zip(gradients, expected, strict=True):
        assert (got - right).norm() < bound * right.norm()


@pytest.mark.parametrize("wanted", [0, 1], ids=["patches", "text"])
def test_each_input_alone_gets_the_gradient_it_gets_with_the_other(wanted):
    both = random_pair(*FEW_PATCHES)
    expected = torch.autograd.grad(compatibility(*both).square().sum(), both)[wanted]
    inputs = [t.detach() for t in both]
    inputs[wanted].requires_grad_()
    (got,) = torch.autograd.grad(compatibility(*inputs).square().sum(), [inputs[wanted]])
    torch.testing.assert_close(got, expected)


def kept_elements(patches, text):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        compatibility(patches, text)
    return sum(kept)


def test_what_is_kept_for_the_way_back(monkeypatch):
    B, N, K, D = 6, 5, 7, 9
    patches, text = random_pair(B, N, K, D)
    text = text.detach()
    least = B * N * D + K * D + 2 * B * K  # the inputs, phi and 1 / |v|
    assert kept_elements(patches, text) == least + 2 * B * N * K
    monkeypatch.setattr(phi_module, "KEPT_ELEMENTS", B * N * K)
    assert kept_elements(patches, text) == least + 2 * B * N * K
    monkeypatch.setattr(phi_module, "KEPT_ELEMENTS", B * N * K - 1)
    assert kept_elements(patches, text) == least


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_the_texts_gradient_is_added_up_in_float32_over_all_blocks(monkeypatch):
    """A bfloat16 sum would stop growing once an image's part is less than half of its last digit."""
    monkeypatch.setattr(phi_module, "CPU_BLOCK_BYTES", 1)  # one image a block
    patches, text = (t.detach().float() for t in random_pair(1, 3, 5, 8))
    one, many = text.clone().requires_grad_(), text.clone().requires_grad_()
    compatibility(patches, one, products="bfloat16").sum().backward()
    compatibility(patches.expand(600, -1, -1), many, products="bfloat16").sum().backward()
    torch.testing.assert_close(many.grad, 600 * one.grad, atol=0.02, rtol=1e-3)


@pytest.mark.parametrize("pooling", ["all_pairs", "matched_only"])
def test_half_precision_gradients_are_in_half_precision_from_float32_sums_each_time(pooling):
    patches, text = (t.detach().bfloat16() for t in random_pair(3, 3, 3, 8))
    whole, half = patches.float().requires_grad_(), patches.clone().requires_grad_()
    (expected,) = torch.autograd.grad(compatibility(whole, text, pooling=pooling).sum(), whole)
    with torch.autocast("cpu", torch.bfloat16):
        phi = compatibility(half, text, pooling=pooling)
    first, second = (torch.autograd.grad(phi.sum(), half, retain_graph=True)[0] for _ in range(2))
    assert phi.dtype == torch.float32 and first.dtype == torch.bfloat16
    torch.testing.assert_close(first, expected.bfloat16())
    assert torch.equal(first, second)


def test_strided_inputs_are_as_good_as_contiguous_ones():
    patches, text = (t.detach() for t in random_pair(*FEW_PATCHES))
    strided = patches.mT.contiguous().mT.requires_grad_()
    whole = patches.clone().requires_grad_()
    for scoring in ("cosine", "dot"):
        got, expected = (
            torch.autograd.grad(compatibility(p, text, scoring=scoring).sum(), p)[0] for p in (strided, whole)
        )
        torch.testing.assert_close(got, expected)


def test_a_second_derivative_is_refused():
    patches, text = random_pair(3, 4, 3, 5)
    phi = compatibility(patches, text)
    (gradient,) = torch.autograd.grad(phi.square().sum(), patches, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("scoring", ["cosine", "dot"])
def test_patches_that_cancel_out_give_finite_gradients(scoring):
    patches = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]], requires_grad=True)
    text = torch.tensor([[0.0, 1.0]], requires_grad=True)
    compatibility(patches, text, scoring=scoring).sum().backward()
    assert torch.isfinite(patches.grad).all() and torch.isfinite(text.grad).all()


@pytest.mark.parametrize("sizes", [FEW_PATCHES, MANY_PATCHES], ids=["few patches", "many"])
def test_averages_shorter_than_tiny_are_divided_by_a_constant(sizes):
    """|v| stays below 1e-8, so that phi is v . y / 1e-8 with v alone to move."""
    patches, text = random_pair(*sizes)
    patches = (1e-9 * F.normalize(patches.detach(), dim=-1)).requires_grad_()
    g = torch.randn(len(patches), len(text), dtype=torch.double, generator=torch.Generator().manual_seed(1))
    options = dict(scoring="dot", activation="sigmoid", scale=2.0)
    v = torch.einsum("bnk,bnd->bkd", (2.0 * patches @ text.T).sigmoid(), patches)
    assert v.norm(dim=-1).min() > 0 and v.norm(dim=-1).max() < 1e-8
    expected = (v / 1e-8 * F.normalize(text, dim=-1)).sum(dim=-1)
    phi = compatibility(patches, text, **options)
    torch.testing.assert_close(phi, expected)
    for got, right in zip(*(torch.autograd.grad(t, (patches, text), g) for t in (phi, expected)), strict=True):
        torch.testing.assert_close(got, right)
