"""Upscaling against torch's, and sliding windows against a brute-force loop."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import colour_world
from PIL import Image
from torch.nn import functional as F

from pacl import label_maps as labels_module
from pacl.clip.texts import ClassTexts
from pacl.label_maps import predict
from pacl.model import VisionEmbedder
from pacl.runtime.files import checksum
from pacl.runtime.params import Protocol
from pacl.segment import (
    Method,
    benchmark_texts,
    dense_logits,
    interpolation_matrix,
    methods_of,
    opencv_bilinear,
    patch_class_logits,
    resized_size,
    segment,
    token_logits,
    window_starts,
)

P = 4


class ColourCLIP(colour_world.ColourCLIP):
    """One last block has tokens of the other sign."""

    def patch_features_by(self, images, last_blocks, stride=None, **how):
        return {name: self.patch_features(images, stride) * (-1 if name == "negative" else 1) for name in last_blocks}


def embed(patch_features):
    return torch.cat([patch_features, patch_features.square() + 0.1], dim=-1)  # [B, N, 6]


METHOD = Method(embed, "clip")
TEXT = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))  # [M, D]
TEXTS = ClassTexts(TEXT, torch.arange(3))


def picture(H, W, B=None, seed=0):
    shape = (3, H, W) if B is None else (B, 3, H, W)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("size, grid, stride, patch, resized", [
    (12, 5, 1, 1, 5),  # tokens are pixels
    (5, 12, 1, 1, 12),
    (24, 3, 8, 8, 24),  # patches side by side
    (50, 10, 3, 8, 37),  # overlapping patches, and 2 pixels that none sees
    (5, 1, P, P, 4),  # a single patch
])  # fmt: skip
def test_pixels_interpolate_between_the_centres_of_patches(size, grid, stride, patch, resized):
    """As numpy does, and torch where patches fill the image."""
    values, pixels = np.random.default_rng(0).normal(size=grid), (np.arange(size) + 0.5) * resized / size
    weights = interpolation_matrix(size, grid, stride, patch, resized)
    expected = np.interp(pixels, np.arange(grid) * stride + patch / 2, values)
    np.testing.assert_allclose(weights.numpy() @ values, expected, atol=1e-6)
    assert ((weights > 0).sum(1) <= 2).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(size))
    if stride == patch:
        whole = F.interpolate(torch.from_numpy(values)[None, None], size=size, mode="linear")[0, 0]
        np.testing.assert_allclose(expected, whole, atol=1e-6)


def test_whole_image_logits_are_cosines_at_the_images_own_size():
    image = picture(21, 30)
    logits = dense_logits(ColourCLIP(), METHOD, image, TEXT, Protocol(token_stride=2))
    assert logits.shape == (3, 21, 30) and logits.dtype == torch.float32
    tokens = embed(ColourCLIP().patch_features(image[None] / 255 - 0.5, 2))  # [1, N, D]
    cosines = F.cosine_similarity(tokens[0, :, None], TEXT, dim=-1).T.reshape(3, 9, 14)
    # pixel 5 of a row is at 5.5, between the centres 4 and 6 of the second and third token; pixel 0 is outside them all
    torch.testing.assert_close(logits[:, 0, 5], 0.25 * cosines[:, 0, 1] + 0.75 * cosines[:, 0, 2])
    torch.testing.assert_close(logits[:, 0, 0], cosines[:, 0, 0])


@pytest.mark.parametrize("size, enlarged_to", [((20, 32), (40, 64)), ((32, 20), (64, 40)), ((40, 20), (80, 40))])
def test_short_side_is_resized_and_logits_come_back_at_the_original_size(size, enlarged_to):
    image = picture(*size)
    logits = dense_logits(ColourCLIP(), METHOD, image, TEXT, Protocol(short_side=40))
    enlarged = F.interpolate(image[None] / 255, size=enlarged_to, mode="bilinear", antialias=True)
    tokens = embed(ColourCLIP().patch_features(enlarged - 0.5))
    h, w = (side // P for side in enlarged_to)
    cosines = F.cosine_similarity(tokens[0, :, None], TEXT, dim=-1).T.reshape(1, 3, h, w)
    torch.testing.assert_close(logits, F.interpolate(cosines, size=size, mode="bilinear")[0])


# SHA-256, the first 16 digits, of what cv2.resize(INTER_LINEAR) made of noise; OpenCV 4.5.5, 4.14.0 and 5.0.0 agree.
OPENCV = {
    ((480, 640), (336, 448)): "59bdf9e3dde85304",
    ((375, 500), (336, 448)): "e17ea3aa994b041b",
    ((281, 500), (336, 598)): "d9c647856e26111d",
    ((50, 70), (96, 134)): "a0e2591a8bcfc635",
    ((64, 64), (32, 32)): "074d44db5d38b829",
    ((64, 64), (16, 16)): "49ec774d523a550f",
    ((3, 2), (7, 9)): "ce7a5c7f7d0cf1bd",
}


@pytest.mark.parametrize("old, new", OPENCV)
def test_opencvs_bilinear_resize_is_met_bit_for_bit(old, new):
    H, W = old
    noise = np.random.default_rng(H * W).integers(0, 256, (H, W, 3), dtype=np.uint8)
    found = opencv_bilinear(torch.from_numpy(noise).permute(2, 0, 1), new).permute(1, 2, 0).contiguous().numpy()
    assert found.dtype == np.uint8 and checksum(found.tobytes())[:16] == OPENCV[old, new]
    exact = F.interpolate(torch.from_numpy(noise).permute(2, 0, 1)[None].float(), size=new, mode="bilinear")[0]
    assert np.abs(found - exact.permute(1, 2, 0).numpy()).max() < 1


@pytest.mark.parametrize("size, settings, expected", [
    ((375, 500), {"short_side": 336}, (336, 448)),
    ((4, 7), {"short_side": 6}, (6, 11)),  # 10.5, which Python's round makes 10
    ((4, 7), {"short_side": 6, "resize": "antialiased"}, (6, 10)),
    ((300, 3000), {"short_side": 336, "long_side": 2048}, (205, 2048)),
    ((3000, 300), {"short_side": 336, "long_side": 2048}, (2048, 205)),
    ((300, 3000), {"short_side": 336}, (336, 3360)),
    ((300, 400), {"long_side": 2048}, (300, 400)),
    ((300, 4096), {"long_side": 2048}, (150, 2048)),
])  # fmt: skip
def test_sides_are_those_of_mmcvs_rescale(size, settings, expected):
    """The smaller factor of the two sides', then a half more, rounded down."""
    assert resized_size(*size, Protocol(**({"resize": "opencv"} | settings))) == expected


def test_a_protocol_may_resize_as_opencv_does():
    """Of stripes black, white, white, black it keeps the white, and doesn't average."""
    stripes = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(16).expand(3, 64, 64)
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    small = dense_logits(ColourCLIP(), METHOD, stripes, TEXT, Protocol(short_side=16, resize="opencv"))
    torch.testing.assert_close(small[:, :16, :16], dense_logits(ColourCLIP(), METHOD, white, TEXT, Protocol()))


@pytest.mark.parametrize("how", [
    {}, {"positions": "scaled"}, {"token_stride": 4}, {"token_stride": 4, "passes": "shifted"},
])  # fmt: skip
def test_tokens_are_those_of_the_protocols_stride_passes_and_position_embeddings(tiny_clip, how):
    image, text = picture(40, 32), torch.randn(3, tiny_clip.dim, generator=torch.Generator().manual_seed(1))
    method, stride = {"": Method(tiny_clip.project, "clip")}, how.get("token_stride")
    found = token_logits(tiny_clip, method, image, text, Protocol(**how))[""].logits
    way, x = {key: how[key] for key in how.keys() - {"token_stride"}}, tiny_clip.normalize(image[None] / 255)
    tokens = tiny_clip.project(tiny_clip.patch_features_by(x, ["clip"], stride, **way)["clip"])
    expected = F.cosine_similarity(tokens[0, :, None], text, dim=-1).T.reshape(3, *tiny_clip.grid(40, 32, stride))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = token_logits(tiny_clip, method, image, text, Protocol(token_stride=stride))[""].logits
    assert torch.allclose(found, plain, atol=1e-4) != bool(way)


def brute_force_windows(image, window, step, stride):
    clip, H, W = ColourCLIP(), *image.shape[1:]
    total, count = torch.zeros(3, H, W), torch.zeros(H, W)
    for y in sorted({min(y, H - window) for y in range(0, H, step)}):
        for x in sorted({min(x, W - window) for x in range(0, W, step)}):
            crop = image[None, :, y : y + window, x : x + window] / 255 - 0.5
            cosines = F.cosine_similarity(embed(clip.patch_features(crop, stride))[0, :, None], TEXT, dim=-1)
            side = clip.grid(window, window, stride)[0]
            for row in range(window):
                for column in range(window):
                    at = [min(max((p + 0.5 - P / 2) / stride, 0), side - 1) for p in (row, column)]
                    low = [min(int(a), side - 2) for a in at]
                    value = torch.zeros(3)
                    for i in (0, 1):
                        for j in (0, 1):
                            share = (1 - abs(at[0] - low[0] - i)) * (1 - abs(at[1] - low[1] - j))
                            value += share * cosines[(low[0] + i) * side + low[1] + j]
                    total[:, y + row, x + column] += value
                    count[y + row, x + column] += 1
    return total / count


@pytest.mark.parametrize("H, W, window, step, stride", [(14, 19, 8, 4, 4), (8, 11, 8, 8, 2)])
def test_sliding_windows_match_a_brute_force_loop(H, W, window, step, stride):
    image = picture(H, W)
    protocol = Protocol(window=window, window_stride=step, token_stride=stride)
    torch.testing.assert_close(
        dense_logits(ColourCLIP(), METHOD, image, TEXT, protocol), brute_force_windows(image, window, step, stride)
    )


@pytest.mark.parametrize("short_side", [8, 12, 14, 25])
def test_windows_on_a_resized_image_come_back_at_the_original_size(short_side):
    """Cosines are averaged at the resized image's pixels, which torch then scales to the original's."""
    image = picture(14, 21)
    size = [short_side, round(1.5 * short_side)]
    resized = F.interpolate(image[None] / 255, size=size, mode="bilinear", antialias=True)[0] * 255
    average = brute_force_windows(resized, 8, 4, 4)
    protocol = Protocol(short_side=short_side, window=8, window_stride=4)
    torch.testing.assert_close(
        dense_logits(ColourCLIP(), METHOD, image, TEXT, protocol),
        F.interpolate(average[None], size=(14, 21), mode="bilinear")[0],
    )


def test_windows_end_flush_with_the_edge():
    assert window_starts(14, 8, 4) == [0, 4, 6]
    assert window_starts(16, 8, 4) == [0, 4, 8]
    assert window_starts(8, 8, 4) == window_starts(5, 8, 4) == [0]


@pytest.mark.parametrize("protocol", [Protocol(window=16, window_stride=8, token_stride=2), Protocol()])
def test_an_image_smaller_than_a_window_or_a_patch_is_padded(protocol):
    """To the right and below, with CLIP's mean colour, here a grey that a picture can hold."""

    class GreyMean(ColourCLIP):
        def normalize(self, images):
            return images - 128 / 255

    for size in ((3, 9), (9, 3)):
        image, filled = picture(*size), torch.full((3, 16, 16), 128, dtype=torch.uint8)
        filled[:, : size[0], : size[1]] = image
        filled = filled if protocol.window else filled[:, : max(size[0], P), : max(size[1], P)]
        logits = dense_logits(GreyMean(), METHOD, image, TEXT, protocol)
        expected = dense_logits(GreyMean(), METHOD, filled, TEXT, protocol)[:, : size[0], : size[1]]
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("protocol", [Protocol(), Protocol(short_side=24, window=16, window_stride=8, token_stride=2)])
def test_batches_pictures_and_blocks_of_rows_agree(monkeypatch, protocol):
    images = picture(20, 28, B=2)
    logits = dense_logits(ColourCLIP(), METHOD, images, TEXT, protocol)
    assert logits.shape == (2, 3, 20, 28)
    for one, image in zip(logits, images, strict=True):
        torch.testing.assert_close(dense_logits(ColourCLIP(), METHOD, image, TEXT, protocol), one)
        pil = Image.fromarray(image.permute(1, 2, 0).numpy())
        torch.testing.assert_close(dense_logits(ColourCLIP(), METHOD, pil, TEXT, protocol), one)
    monkeypatch.setattr(labels_module, "_tile", lambda *_: (1, 3, 3))
    labels = segment(ColourCLIP(), METHOD, images, TEXTS, protocol)
    assert labels.dtype == torch.int64 and torch.equal(labels, logits.argmax(1))
    assert torch.equal(segment(ColourCLIP(), METHOD, images[0], TEXTS, protocol), labels[0])


def test_methods_with_last_blocks_of_their_own_share_a_run():
    methods = {"plain": METHOD, "negative": Method(embed, "negative"), "other": Method(lambda x: embed(x) + 1, "clip")}
    protocol = Protocol(window=16, window_stride=8, token_stride=2)
    together = token_logits(ColourCLIP(), methods, picture(20, 28), TEXT, protocol)
    for name, method in methods.items():
        assert together[name].logits.shape == (3, 2 * 7, 3 * 7)  # the tokens of windows next to each other
        alone = dense_logits(ColourCLIP(), method, picture(20, 28), TEXT, protocol)
        torch.testing.assert_close(together[name].upscaled(), alone)
    assert not torch.allclose(together["plain"].logits, together["negative"].logits)


def test_segment_follows_the_protocols_background():
    protocol = Protocol(logit_scale=5.0, background_rule="entropy", background_threshold=1.0)
    logits = dense_logits(ColourCLIP(), METHOD, picture(20, 28), TEXT, protocol)
    listed = dataclasses.replace(TEXTS, background_listed=True)
    found = [segment(ColourCLIP(), METHOD, picture(20, 28), texts, protocol) for texts in (TEXTS, listed)]
    for labels, texts in zip(found, (TEXTS, listed), strict=True):
        assert torch.equal(labels, predict(logits, texts, protocol))
    assert {0, 1} < set(found[0].unique().tolist()) and not torch.equal(*found)


def test_cosines_are_with_texts_as_the_methods_text_map_leaves_them():
    """A map that hands each phrase the next one's text moves the cosines by one."""
    moved = Method(embed, "clip", lambda text: text.roll(-1, 0))
    found, plain = (dense_logits(ColourCLIP(), m, picture(20, 28), TEXT, Protocol()) for m in (moved, METHOD))
    torch.testing.assert_close(found, plain[[1, 2, 0]])
    assert not torch.allclose(found, plain, atol=1e-2)


def test_patch_class_logits_take_the_best_phrase():
    patches = torch.eye(3)[None]  # [1, N, D]
    text = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
    assert torch.equal(patch_class_logits(patches, text), torch.eye(3)[None])
    merged = patch_class_logits(patches, text, torch.tensor([1, 0, 1]))
    assert torch.equal(merged, torch.tensor([[[0.0, 1], [1, 0], [0, 1]]]))
    with pytest.raises(ValueError, match="2 phrases, but there are scores for 3"):
        patch_class_logits(patches, text, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "images", [torch.rand(3, 8, 8), *(torch.zeros(s, dtype=torch.uint8) for s in ((8, 8), (4, 8, 8), (1, 1, 3, 8, 8)))]
)
def test_images_of_another_type_or_shape_are_named(images):
    with pytest.raises(ValueError, match=r"must be a PIL image or uint8 \[3, H, W\] or .*, not torch.*8, 8\]\.$"):
        dense_logits(ColourCLIP(), METHOD, images, TEXT, Protocol())


def test_pacl_reads_its_own_tokens_and_other_methods_project_a_last_block():
    class Clip:
        project, last_block, device = "projection", "maskclip", torch.device("cpu")

    embedder = VisionEmbedder(3, 4, text_embedder="linear")
    assert methods_of(Clip(), embedder, ["clip", "pacl", "naclip"]) == {
        "clip": Method("projection", "clip"),
        "pacl": Method(embedder, "maskclip", embedder.text_embedder),
        "naclip": Method("projection", "naclip"),
    }


@pytest.mark.parametrize("phrases, words", [(None, ["cow", "green hill", "hill"]), ("words", ["sky", "wall", "sea"])])
def test_texts_of_a_benchmark_are_in_the_protocols_words_and_templates(phrases, words):
    protocol = Protocol(templates="one", phrases=phrases, background_rule="entropy")
    texts = benchmark_texts(colour_world.ColourCLIP(), colour_world.BENCHMARKS["with_background"], protocol)
    prompts = [f"a photo of a {word}." for word in words]
    torch.testing.assert_close(texts.features[:3], colour_world.ColourCLIP().text_features(prompts))
    assert texts.phrase_index.tolist() == ([0, 0, 0, 1, 2, 2] if phrases else [0, 1, 1])
    assert texts.background_listed == bool(phrases)


def test_a_picture_of_16_bits_is_segmented_as_its_8_bits_are():
    grey = np.random.default_rng(0).integers(0, 256, (16, 24), dtype=np.uint8)
    shallow, deep = (Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257))
    first, second = (dense_logits(ColourCLIP(), METHOD, image, TEXT, Protocol()) for image in (shallow, deep))
    assert torch.equal(first, second)
