"""A stand-in for FrozenCLIP: a patch token is the patch's mean colour, so that results can be worked out by hand."""

import torch
from torch.nn import functional as F


class ColourCLIP:
    patch_size, device = 4, torch.device("cpu")

    def normalize(self, images):
        return images

    def grid(self, H, W, stride=None):
        stride = stride or self.patch_size
        return (H - self.patch_size) // stride + 1, (W - self.patch_size) // stride + 1

    def patch_features(self, images, stride=None):
        return F.avg_pool2d(images, self.patch_size, stride or self.patch_size).flatten(2).transpose(1, 2)

    def patch_features_by(self, images, last_blocks, stride=None, *, passes="joint", positions="exact"):
        return {name: self.patch_features(images, stride) for name in last_blocks}
