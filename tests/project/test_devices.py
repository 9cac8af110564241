"""Batches come from the disk or the CPU, models lie on a GPU: what meets is on one device. Shown without a GPU, by
torch's fake tensors, which have a device and a shape and refuse operations on two devices, but hold no numbers.
"""

import pytest
import torch
from helpers.small_training import params
from torch._subclasses.fake_tensor import FakeTensorMode

from pacl.evaluation.patches import patch_embeddings, patch_predictions
from pacl.loss import LogitScale
from pacl.model import VisionEmbedder
from pacl.training.train import batch_loss

D, D_v, N = 8, 6, 4


@pytest.fixture
def fake():
    with FakeTensorMode():
        yield


def on_gpu(make):
    with torch.device("cuda"):
        return make()


def test_two_devices_are_refused_here(fake):
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2) + torch.ones(2, device="cuda")


@pytest.mark.parametrize("text_embedder", ["frozen", "linear"])
@pytest.mark.parametrize("tokens_on", ["cpu", "cuda"])  # cached features and streamed ones
def test_a_batch_goes_to_the_embedders_device(fake, text_embedder, tokens_on):
    embedder = on_gpu(lambda: VisionEmbedder(D_v, D, text_embedder=text_embedder))
    logit_scale = on_gpu(LogitScale)
    batch = [torch.ones(3, N, D_v, dtype=torch.half, device=tokens_on), torch.ones(3, D), torch.arange(3)]
    loss, phi = batch_loss(embedder, logit_scale(), batch, params(batch_size=3, precision="float32"))
    assert loss.device.type == phi.device.type == "cuda"  # the way back wants a real GPU


def test_patches_go_to_the_embedders_device_and_what_is_found_comes_back(fake):
    embedder = on_gpu(lambda: VisionEmbedder(D_v, D))
    patches = torch.ones(5, N, D_v)
    text = on_gpu(lambda: torch.ones(3, D))
    assert patch_embeddings(embedder, patches, text.device, batch_size=2).device.type == "cpu"
    preds = patch_predictions(embedder, patches, text, None, batch_size=2)  # a text a class
    assert preds.shape == (5, N) and preds.device.type == "cpu"
