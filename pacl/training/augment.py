"""Images as a pre-training sees them: mirrored, cropped, in other colours, all at random."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ASPECT = 4 / 3  # the most that a crop's width differs from its height
GREY_SHARE = 0.1  # of the images whose colours change
GREY = (0.299, 0.587, 0.114)  # the brightness of red, green and blue


def augmented(rng: np.random.Generator, images: np.ndarray, size: int, crop: float, colour: float) -> Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, size, size] in [0, 1] and a little beyond.

    crop: the least share of the area that is kept; 1 keeps everything. colour: the most by which brightness, contrast
    and saturation change; 0 changes nothing.
    """
    pixels = torch.from_numpy(mirrored(rng, images)).permute(0, 3, 1, 2) / 255
    pixels = cropped(rng, pixels, size, crop) if crop < 1 else resized(pixels, size)
    return recoloured(rng, pixels, colour) if colour else pixels


def mirrored(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Each picture of uint8 [B, H, W, 3] mirrored left to right with probability 1/2."""
    flip = rng.random(len(images)) < 0.5
    return np.where(flip[:, None, None, None], images[:, :, ::-1], images)


def resized(images: Tensor, size: int) -> Tensor:
    """[B, 3, H, W] -> [B, 3, size, size]; images of this size stay what they are."""
    if images.shape[2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)


def cropped(rng: np.random.Generator, images: Tensor, size: int, least: float) -> Tensor:
    """A random box of each image [B, 3, H, W], `least` of the area or more, 3:4 to 4:3, to [B, 3, size, size]."""
    area = rng.uniform(least, 1, len(images))
    aspect = np.exp(rng.uniform(-np.log(ASPECT), np.log(ASPECT), len(images)))
    box = np.minimum(np.sqrt([area * aspect, area / aspect]).T, 1)  # [B, 2]: width and height, of 1
    theta = np.zeros((len(images), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 1, 1] = box.T
    theta[:, :, 2] = (1 - box) * rng.uniform(-1, 1, box.shape)
    grid = F.affine_grid(torch.from_numpy(theta), [len(images), 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recoloured(rng: np.random.Generator, images: Tensor, most: float) -> Tensor:
    """Brightness, contrast and saturation of each image [B, 3, H, W] times 1 - most to 1 + most; some become grey."""
    factors = rng.uniform(1 - most, 1 + most, (3, len(images), 1, 1, 1)).astype(np.float32)
    factors[2, rng.random(len(images)) < GREY_SHARE] = 0
    brightness, contrast, saturation = torch.from_numpy(factors)
    grey = (images * torch.tensor(GREY)[:, None, None]).sum(1, keepdim=True)
    images = torch.lerp(grey, images, saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * contrast + mean * brightness
