"""Are patches aligned with text? Patch labels by majority, their nearest text, and whether patches of one class are
alike (paper, sections 3 and 4).
"""

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize

from pacl.clip.features import batches
from pacl.clip.frozen import FrozenCLIP
from pacl.data.benchmark import target_of
from pacl.data.images import Images, Masks
from pacl.metrics import IGNORE_INDEX, bootstrap_interval, coherence_interval, coherence_roc, patch_labels
from pacl.segment import Embed, patch_class_logits


def scene_patches(
    clip: FrozenCLIP,
    images: Images,
    masks: Masks,
    table: list[int],
    *,
    last_blocks: list[str],
    batch_size: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Patch tokens [M, N, D_v] of images as CLIP crops them, by last block, and the majority label of each patch
    [M, N].
    """
    labels = [
        patch_labels(torch.from_numpy(view_of(target_of(masks[i], table), clip.image_size))[None], clip.patch_size)
        for i in range(len(masks))
    ]
    tokens = {name: [] for name in last_blocks}
    for batch in batches(clip, images, batch_size, "patches"):
        for name, part in clip.patch_features_by(batch, last_blocks).items():
            tokens[name].append(part.cpu())
    return {name: torch.cat(parts) for name, parts in tokens.items()}, torch.cat(labels)


def patch_colours(clip: FrozenCLIP, images: Images, *, batch_size: int) -> Tensor:
    """Mean and deviation of each patch's colours, as CLIP is given them, [M, N, 6]: what is alike without a network."""
    size, parts = clip.patch_size, []
    for batch in batches(clip, images, batch_size, "colours"):
        pixels = batch.unfold(2, size, size).unfold(3, size, size).flatten(4).flatten(2, 3)  # [B, 3, N, P * P]
        parts.append(torch.cat([pixels.mean(-1), pixels.std(-1)], dim=1).transpose(1, 2))
    return torch.cat(parts)


def view_of(target: np.ndarray, size: int) -> np.ndarray:
    """A label map through CLIP's preprocessing: short side to `size`, centre crop, labels never mixed."""
    return np.array(center_crop(resize(Image.fromarray(target), size, InterpolationMode.NEAREST_EXACT), size))


def patch_predictions(
    embed: Embed, patches: Tensor, text: Tensor, phrase_index: Tensor, *, batch_size: int = 64
) -> Tensor:
    """The class of highest text similarity for each patch: [M, N, D_v] -> [M, N], on the CPU. embed and text [K, D] are
    on one device, to which the patches go.
    """
    with torch.no_grad():
        embedded = (embed(part.to(text.device)) for part in patches.split(batch_size))
        return torch.cat([patch_class_logits(part, text, phrase_index).argmax(-1).cpu() for part in embedded])


@torch.no_grad()
def patch_embeddings(embed: Embed, patches: Tensor, device: torch.device, *, batch_size: int = 64) -> Tensor:
    """[M, N, D_v] -> [M, N, D], on the CPU. device: that of `embed`."""
    return torch.cat([embed(part.to(device)).cpu() for part in patches.split(batch_size)])


def patch_accuracy(preds: Tensor, labels: Tensor) -> float:
    """Share of labelled patches whose class is right (paper: patch classification)."""
    labelled = labels != IGNORE_INDEX
    return (preds[labelled] == labels[labelled]).double().mean().item()


def patch_accuracy_by_class(preds: Tensor, labels: Tensor, classes: list[str]) -> pd.DataFrame:
    """Columns class, accuracy, patches; classes without a patch are left out."""
    here = [(k, name) for k, name in enumerate(classes) if (labels == k).any()]
    rows = [
        (name.split(",")[0], patch_accuracy(preds[labels == k], labels[labels == k]), int((labels == k).sum()))
        for k, name in here
    ]
    return pd.DataFrame(rows, columns=["class", "accuracy", "patches"])


def accuracy_interval(preds: Tensor, labels: Tensor, *, seed: int) -> tuple[float, float]:
    """95 % interval of the patch accuracy, resampling images: [M, N], [M, N] -> (low, high)."""
    labelled = labels != IGNORE_INDEX
    counts = torch.stack([((preds == labels) & labelled).sum(1), labelled.sum(1)], dim=1).numpy()
    return bootstrap_interval(counts, seed, statistic=lambda rows: rows[:, 0].sum() / rows[:, 1].sum())


def coherence(features: Tensor, labels: Tensor, *, pairs: int, seed: int) -> dict:
    """The ROC of "one class" against cosine, for patches of different images: [M, N, D], [M, N] -> false_positives,
    true_positives (rates), auc, interval (95 % of the area, resampling images).
    """
    from sklearn.metrics import roc_curve  # slow to import, and most callers need none of it

    images = torch.arange(len(labels))[:, None].expand_as(labels)
    scores, same_class, of_images, auc = coherence_roc(
        features.flatten(0, 1), labels.flatten(), images.flatten(), pairs=pairs, seed=seed
    )
    false_positives, true_positives, _ = roc_curve(same_class, scores)
    thinned = np.linspace(0, len(false_positives) - 1, min(400, len(false_positives))).astype(int)
    return {
        "false_positives": false_positives[thinned],
        "true_positives": true_positives[thinned],
        "auc": auc,
        "interval": coherence_interval(scores, same_class, of_images, seed),
    }


def patch_map(
    embeddings: Tensor, labels: Tensor, text: Tensor, *, classes: int, patches: int, seed: int
) -> pd.DataFrame:
    """A t-SNE picture of patches and class texts in one plane: columns x, y, label, is_text.

    embeddings [M, N, D], labels [M, N], text [K, D], a text a class. Shown are the `classes` classes with the most
    patches, and of each the same number of patches, `patches` in all at most.
    """
    from sklearn.manifold import TSNE

    embeddings, labels = embeddings.flatten(0, 1), labels.flatten()
    counts = torch.bincount(labels[labels != IGNORE_INDEX], minlength=len(text))
    shown = counts.argsort(descending=True, stable=True)[:classes]
    generator = torch.Generator().manual_seed(seed)
    at = [(labels == k).nonzero()[:, 0] for k in shown]
    chosen = torch.cat([i[torch.randperm(len(i), generator=generator)[: patches // classes]] for i in at])
    points = F.normalize(torch.cat([embeddings[chosen].float(), text[shown].float().cpu()]), dim=-1).numpy()
    plane = TSNE(init="pca", random_state=seed).fit_transform(points)
    return pd.DataFrame(
        {
            "x": plane[:, 0],
            "y": plane[:, 1],
            "label": torch.cat([labels[chosen], shown]).numpy(),
            "is_text": np.arange(len(plane)) >= len(chosen),
        }
    )
