"""Batches come from the disk or the CPU, models lie on a GPU, and what meets is on one device. Shown without a GPU, by
torch's fake tensors: they have a device and a shape and refuse operations on two devices, but hold no numbers.
"""

import pytest
import torch
from helpers.small_training import params
from torch._subclasses.fake_tensor import FakeTensorMode

from pacl.clip.texts import ClassTexts
from pacl.evaluation.patches import patch_embeddings, patch_predictions
from pacl.loss import LogitScale
from pacl.model import VisionEmbedder
from pacl.segment import Method
from pacl.training.train import batch_loss

D, D_v, N = 8, 6, 4


@pytest.fixture(autouse=True)
def fake():
    with FakeTensorMode():
        with pytest.raises(RuntimeError, match="device"):
            torch.ones(2) + torch.ones(2, device="cuda")
        yield


def on_gpu(make, *arguments, **options):
    with torch.device("cuda"):
        return make(*arguments, **options)


@pytest.mark.parametrize("text_embedder", ["frozen", "linear"])
@pytest.mark.parametrize("tokens_on", ["cpu", "cuda"])  # cached features and streamed ones
def test_a_batch_goes_to_the_embedders_device(text_embedder, tokens_on):
    embedder = on_gpu(VisionEmbedder, D_v, D, text_embedder=text_embedder)
    batch = [torch.ones(3, N, D_v, dtype=torch.half, device=tokens_on), torch.ones(3, D), torch.arange(3)]
    loss, phi = batch_loss(embedder, on_gpu(LogitScale)(), batch, params(batch_size=3, precision="float32"))
    assert loss.device.type == phi.device.type == "cuda"  # the way back wants a real GPU


def test_patches_go_to_the_embedders_device_and_what_is_found_comes_back(monkeypatch):
    monkeypatch.setattr("pacl.model._check_numbers", lambda cosines: None)  # which fake tensors don't hold
    embedder, patches = on_gpu(VisionEmbedder, D_v, D), torch.ones(5, N, D_v)
    texts = on_gpu(lambda: ClassTexts(torch.ones(3, D), None))  # one a class
    assert patch_embeddings(embedder, patches, texts.features.device, batch_size=2).device.type == "cpu"
    preds = patch_predictions(Method(embedder, "clip"), patches, texts, batch_size=2)
    assert preds.shape == (5, N) and preds.device.type == "cpu"
