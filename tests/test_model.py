"""phi and its gradients against a double loop over pairs in double precision, and the embedder's sizes."""

import pytest
import torch
from safetensors.torch import save_file

from pacl import phi as phi_module
from pacl.model import VisionEmbedder, attention, compatibility, similarity_map

B, K, N = 4, 5, 7


def phi_by_loop(patches, text, scoring="cosine", scale=10.0, activation="softmax", pooling="all_pairs", pooled="raw"):
    """The paper's sentence word by word, one pair at a time."""
    rows = []
    if pooled == "unit":
        patches = patches / patches.norm(dim=2, keepdim=True)
    for i in range(len(patches)):
        row = []
        for j in range(len(text)):
            attended = text[i] if pooling == "matched_only" else text[j]
            scores = patches[i] @ attended
            if scoring == "cosine":
                scores = scores / patches[i].norm(dim=1) / attended.norm()
            scores = scale * scores
            powers = torch.exp(scores)
            weights = powers / powers.sum() if activation == "softmax" else powers / (1 + powers)
            pooled = (weights[:, None] * patches[i]).sum(0)
            row.append((pooled @ text[j]) / (pooled.norm() * text[j].norm()))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def pair(D, K=K, dtype=torch.double):
    rng = torch.Generator().manual_seed(D)
    patches = torch.randn(B, N, D, generator=rng, dtype=torch.double)
    patches *= torch.rand(B, N, 1, generator=rng, dtype=torch.double)
    text = torch.randn(K, D, generator=rng, dtype=torch.double) * 0.7
    return patches.to(dtype).requires_grad_(), text.to(dtype).requires_grad_()


def fixed_pair(D, K=K, dtype=torch.double):
    return [t.detach() for t in pair(D, K, dtype)]


OPTIONS = [
    dict(),
    dict(scale=1.0),
    dict(scale=40.0),
    dict(scoring="dot", scale=1.0),
    dict(activation="sigmoid"),
    dict(pooled="unit"),
    dict(pooled="unit", scoring="dot", scale=1.0),
    dict(pooling="matched_only"),
    dict(pooling="matched_only", pooled="unit"),
    dict(pooling="matched_only", activation="sigmoid"),
    dict(pooling="matched_only", activation="sigmoid", scoring="dot", scale=0.5),
]


@pytest.mark.parametrize("D", [3, 16], ids=["more patches than dimensions", "fewer"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("blocks", [False, True], ids=["whole", "blocks"])
def test_compatibility_and_gradients_match_a_double_loop(monkeypatch, options, D, blocks):
    if blocks:
        monkeypatch.setattr(phi_module, "CPU_BLOCK_BYTES", 1)  # one image a block
    texts = B if "pooling" in options else K
    patches, text = pair(D, texts)
    weights = torch.randn(B, texts, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    expected = phi_by_loop(patches, text, **options)
    expected_gradients = torch.autograd.grad((weights * expected).sum(), (patches, text))

    single, single_text = pair(D, texts, torch.float32)
    phi = compatibility(single, single_text, **options)
    gradients = torch.autograd.grad((weights * phi).sum(), (single, single_text))
    assert phi.dtype == torch.float32
    torch.testing.assert_close(phi.double(), expected, atol=1e-5, rtol=1e-5)
    for got, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got.double(), wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("function", [attention, similarity_map])
def test_weights_and_maps_of_half_precision_input_are_float32(function):
    patches, text = (t.bfloat16() for t in fixed_pair(16))
    assert function(patches, text).dtype == torch.float32
    torch.testing.assert_close(function(patches, text), function(patches.float(), text.float()))


@pytest.mark.parametrize("pooling", ["all_pairs", "matched_only"])
@pytest.mark.parametrize("wide", [0, 1], ids=["patches", "text"])
def test_one_double_input_makes_the_other_double(wide, pooling):
    inputs = fixed_pair(16, B, torch.float32)
    inputs[wide] = inputs[wide].double()
    expected = phi_by_loop(*map(torch.Tensor.double, inputs), pooling=pooling)
    torch.testing.assert_close(compatibility(*inputs, pooling=pooling), expected, atol=1e-12, rtol=0)


@pytest.mark.usefixtures("bfloat16_everywhere")
def test_products_are_float32_if_nothing_else_is_asked_for():
    patches, text = fixed_pair(16, dtype=torch.float32)
    exact, rounded = (compatibility(patches, text, products=products) for products in ("float32", "bfloat16"))
    assert torch.equal(compatibility(patches, text), exact) and not torch.equal(rounded, exact)


def test_each_pair_has_its_own_attention():
    """Two orthogonal objects in one image: each text finds its own patch, which no single pooled vector could do."""
    patches = torch.eye(2)[None]  # [1, 2, 2]
    phi = compatibility(patches, torch.eye(2), scale=50.0)
    torch.testing.assert_close(phi, torch.ones(1, 2))


def test_a_zero_patch_and_a_zero_text_give_finite_gradients():
    patches, text = torch.zeros(1, 2, 8, requires_grad=True), torch.zeros(3, 8, requires_grad=True)
    compatibility(patches, text).sum().backward()
    assert torch.isfinite(patches.grad).all() and torch.isfinite(text.grad).all()


def test_attention_adds_up_to_one_and_sharpens_with_the_scale():
    """Paper: 20 of 196 tokens with +0.1 cosine hold 11 % of the mass at scale 1, hardly more than the 10 % of uniform
    weights.
    """
    cosines = torch.zeros(196, dtype=torch.double)
    cosines[:20] = 0.1
    patches = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)[None]  # [1, 196, 2], with these cosines
    text = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    for scale, mass in ((1.0, 0.11), (10.0, 0.24), (40.0, 0.86)):
        weights = attention(patches, text, scale=scale)
        assert weights.sum().item() == pytest.approx(1)
        assert weights[0, :20].sum().item() == pytest.approx(mass, abs=0.01)


def test_sigmoid_attention_is_a_sigmoid_of_the_score():
    found = attention(*fixed_pair(16), activation="sigmoid")
    torch.testing.assert_close(found, torch.sigmoid(10 * similarity_map(*fixed_pair(16))))


def test_similarity_map_is_the_cosine_of_each_patch():
    patches, text = fixed_pair(16)
    expected = torch.nn.functional.cosine_similarity(patches[:, :, None], text, dim=-1)
    torch.testing.assert_close(similarity_map(patches, text), expected)


@pytest.mark.parametrize("patches, text, options, message", [
    (torch.ones(7, 8), torch.ones(5, 8), {}, "patch embeddings must be"),
    (torch.ones(2, 0, 8), torch.ones(5, 8), {}, "patch embeddings must be"),
    (torch.ones(2, 7, 8), torch.ones(8), {}, "text embeddings must be"),
    (torch.ones(2, 7, 8), torch.ones(0, 8), {}, "text embeddings must be"),
    (torch.ones(2, 7, 8), torch.ones(5, 9), {}, "same width, not 8 and 9"),
    (torch.ones(2, 7, 8), torch.ones(5, 8), dict(pooling="matched_only"), "one text per image, not 5 for 2"),
    (torch.ones(2, 7, 8), torch.ones(5, 8), dict(scoring="cos"), "scoring must be one of cosine, dot"),
    (torch.ones(2, 7, 8), torch.ones(5, 8), dict(pooling="mean"), "pooling must be one of"),
    (torch.ones(2, 7, 8), torch.ones(5, 8), dict(products="half"), "products must be one of"),
    (torch.ones(2, 7, 8), torch.ones(5, 8), dict(activation="relu"), "activation must be one of"),
])  # fmt: skip
def test_bad_input_is_named(patches, text, options, message):
    with pytest.raises(ValueError, match=message):
        compatibility(patches, text, **options)
    if not options.keys() - {"scoring", "activation"}:
        with pytest.raises(ValueError, match=message):
            attention(patches, text, **options)
    if not options:
        with pytest.raises(ValueError, match=message):
            similarity_map(patches, text)


@pytest.mark.parametrize("sizes, parameters", [((768, 512), 1_050_112), ((1024, 768), 2_164_992)])
def test_embedder_has_the_papers_size(sizes, parameters):
    assert sum(p.numel() for p in VisionEmbedder(*sizes).parameters()) == parameters


def test_embedder_is_main_plus_skip():
    embed = VisionEmbedder(6, 4)
    tokens = torch.randn(2, 3, 6)
    first, last = embed.main[0], embed.main[2]
    expected = torch.relu(tokens @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(embed(tokens), expected + tokens @ embed.skip.weight.T + embed.skip.bias)


@pytest.mark.parametrize("kind, names", [("mlp", {"main"}), ("linear", {"skip"}), ("residual", {"main", "skip"})])
def test_embedder_kinds(kind, names):
    embed = VisionEmbedder(6, 4, kind=kind)
    assert {name.split(".")[0] for name in embed.state_dict()} == names
    assert embed(torch.randn(1, 1, 6)).shape == (1, 1, 4) and embed.shape["kind"] == kind


def test_a_text_embedder_starts_as_the_identity_and_a_frozen_one_has_no_weights():
    text = torch.randn(5, 4)
    frozen, linear = (VisionEmbedder(6, 4, text_embedder=text_embedder) for text_embedder in ("frozen", "linear"))
    assert frozen.text_embedder(text) is text and "text_embedder" not in "".join(frozen.state_dict())
    assert torch.equal(linear.text_embedder(text), text)
    assert sum(p.numel() for p in linear.parameters()) == sum(p.numel() for p in frozen.parameters()) + 4 * 4 + 4
    assert linear.shape == {"in_dim": 6, "out_dim": 4, "kind": "residual", "text_embedder": "linear"}
    torch.manual_seed(0)
    first = VisionEmbedder(6, 4)
    torch.manual_seed(0)
    second = VisionEmbedder(6, 4, text_embedder="linear")  # the vision embedder is the same
    assert all(torch.equal(second.state_dict()[name], tensor) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_part_of_the_images_finds_its_own_texts(activation):
    """As processes that each have some of a batch's images, and all of its texts, compute it."""
    patches, text = torch.randn(7, 5, 4), torch.randn(7, 4)
    options = dict(pooling="matched_only", activation=activation)
    whole = compatibility(patches, text, **options)
    for first, last in ((0, 3), (3, 7), (6, 7)):
        part = compatibility(patches[first:last], text, first_text=first, **options)
        torch.testing.assert_close(part, whole[first:last])
    with pytest.raises(ValueError, match="one text per image, not 1 for 2"):
        compatibility(patches[:2], text, first_text=6, **options)


def test_a_shared_embedder_whose_weights_do_not_fit_is_refused(tmp_path):
    """huggingface_hub would leave what a file lacks at random."""
    embedder = VisionEmbedder(6, 4)
    embedder.save_pretrained(tmp_path)
    state, path = embedder.state_dict(), tmp_path / "model.safetensors"
    assert torch.equal(VisionEmbedder.from_pretrained(tmp_path).main[0].weight, state["main.0.weight"])
    lacking = {name: weight for name, weight in state.items() if name != "main.2.bias"}
    nan = state | {"skip.bias": torch.full((4,), torch.nan)}
    for held, said in ((lacking, "weights of this embedder .*main.2.bias"), (nan, "not a finite number, in skip.bias")):
        save_file(held, path)
        with pytest.raises(ValueError, match=said):
            VisionEmbedder.from_pretrained(tmp_path)
    save_file(lacking, path)
    assert torch.equal(VisionEmbedder.from_pretrained(tmp_path, strict=False).skip.bias, state["skip.bias"])


def test_cosines_that_are_not_numbers_are_refused():
    patches, text = torch.randn(1, 3, 4), torch.randn(2, 4)
    patches[0, 1, 2] = torch.nan
    with pytest.raises(ValueError, match="are not numbers .NaN.: check the weights that made them"):
        similarity_map(patches, text)


def test_embedder_names_what_is_wrong():
    with pytest.raises(ValueError, match="text_embedder must be one of frozen, linear"):
        VisionEmbedder(6, 4, text_embedder="mlp")
    with pytest.raises(ValueError, match="kind must be one of"):
        VisionEmbedder(6, 4, kind="conv")
    with pytest.raises(ValueError, match="5 wide"):
        VisionEmbedder(6, 4)(torch.randn(2, 3, 5))
