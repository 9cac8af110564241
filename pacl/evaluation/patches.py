"""Are patches aligned with text? The majority label of each patch, its nearest text, and whether patches of one class
are alike (paper, sections 3 and 4).
"""

from pathlib import Path

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
from pacl.clip.texts import ClassTexts
from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Images, Masks
from pacl.data.prepared import ImageSet
from pacl.metrics import bootstrap_interval, coherence_interval, coherence_roc, patch_accuracy, patch_labels
from pacl.runtime.files import write_json
from pacl.segment import Embed, Method, patch_class_logits

MOST_PATCHES = 20_000  # whose tokens of all blocks are held at once


def scene_patches(
    clip: FrozenCLIP, scenes: ImageSet, benchmark: Benchmark, *, last_blocks: list[str], batch_size: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Patch tokens [M, N, D_v] of the scenes as CLIP crops them, by last block, and the majority label of each patch
    [M, N].
    """
    tokens = {name: [] for name in last_blocks}
    for batch in batches(clip, scenes.images, batch_size, "patches"):
        for name, part in clip.patch_features_by(batch, last_blocks).items():
            tokens[name].append(part.cpu())
    _, labels = cropped_targets(clip, scenes.masks, benchmark)
    return {name: torch.cat(parts) for name, parts in tokens.items()}, labels


def cropped_targets(clip: FrozenCLIP, masks: Masks, benchmark: Benchmark) -> tuple[Tensor, Tensor]:
    """Class indices where CLIP's preprocessing leaves the image: of pixels, uint8 [M, image_size, image_size], and the
    majority of each patch, int64 [M, N].
    """
    views = [view_of(benchmark.target(masks[i]), clip.image_size) for i in range(len(masks))]
    targets = torch.from_numpy(np.stack(views))
    return targets, torch.cat([patch_labels(target[None], clip.patch_size) for target in targets])


def view_of(target: np.ndarray, size: int) -> np.ndarray:
    """A label map through CLIP's preprocessing: short side to `size`, centre crop, labels never mixed."""
    return np.array(center_crop(resize(Image.fromarray(target), size, InterpolationMode.NEAREST_EXACT), size))


def patch_colours(clip: FrozenCLIP, images: Images, *, batch_size: int) -> Tensor:
    """Mean and deviation of each patch's colours, as CLIP sees them, [M, N, 6]: what is alike without a network."""
    size, parts = clip.patch_size, []
    for batch in batches(clip, images, batch_size, "colours"):
        pixels = batch.unfold(2, size, size).unfold(3, size, size).flatten(4).flatten(2, 3)  # [B, 3, N, P * P]
        parts.append(torch.cat([pixels.mean(-1), pixels.std(-1)], dim=1).transpose(1, 2))
    return torch.cat(parts)


@torch.no_grad()
def patch_predictions(method: Method, patches: Tensor, texts: ClassTexts, *, batch_size: int = 64) -> Tensor:
    """The class whose text is nearest to each patch, [M, N, D_v] -> [M, N], on the CPU; computed where texts are."""
    text, preds = method.embed_text(texts.features), []
    for part in patches.split(batch_size):
        embedded = method.embed(part.to(text.device))
        preds.append(patch_class_logits(embedded, text, texts.phrase_index).argmax(-1).cpu())
    return torch.cat(preds)


@torch.no_grad()
def patch_embeddings(embed: Embed, patches: Tensor, device: torch.device, *, batch_size: int = 64) -> Tensor:
    """[M, N, D_v] -> [M, N, D], on the CPU. device: that of `embed`."""
    return torch.cat([embed(part.to(device)).cpu() for part in patches.split(batch_size)])


def accuracy_by_class(preds: Tensor, labels: Tensor, names: list[str]) -> pd.DataFrame:
    """Columns class, accuracy, patches; classes without a patch are left out."""
    own = [(name, labels == k) for k, name in enumerate(names) if (labels == k).any()]
    rows = [(name, patch_accuracy(preds[here], labels[here]), int(here.sum())) for name, here in own]
    return pd.DataFrame(rows, columns=["class", "accuracy", "patches"])


def accuracy_interval(preds: Tensor, labels: Tensor, *, seed: int) -> tuple[float, float]:
    """95 % interval of the patch accuracy, resampling images: [M, N], [M, N] -> (low, high)."""
    labelled = labels != IGNORE
    counts = torch.stack([((preds == labels) & labelled).sum(1), labelled.sum(1)], dim=1).numpy()
    return bootstrap_interval(counts, seed, statistic=lambda rows: rows[:, 0].sum() / rows[:, 1].sum())


def coherence(features: Tensor, labels: Tensor, *, pairs: int, seed: int) -> dict:
    """The ROC of "one class" against cosine for patches of different images, [M, N, D], [M, N] -> false_positives,
    true_positives (lists of at most 400 rates), auc, interval (95 % of the area, resampling images).
    """
    from sklearn.metrics import roc_curve  # slow to import, and most callers do without

    images = torch.arange(len(labels))[:, None].expand_as(labels)
    scores, same_class, of_images, auc = coherence_roc(
        features.flatten(0, 1), labels.flatten(), images.flatten(), pairs=pairs, seed=seed
    )
    false_positives, true_positives, _ = roc_curve(same_class, scores)
    thinned = np.linspace(0, len(false_positives) - 1, min(400, len(false_positives))).astype(int)
    return {
        "false_positives": false_positives[thinned].tolist(),
        "true_positives": true_positives[thinned].tolist(),
        "auc": auc,
        "interval": coherence_interval(scores, same_class, of_images, seed),
    }


@torch.no_grad()
def coherence_by_block(
    clip: FrozenCLIP, images: Images, labels: Tensor, *, pairs: int, seed: int, batch_size: int
) -> list[float]:
    """The area of `coherence` for the patch tokens that each of CLIP's blocks leaves, [M, N] labels -> one a block; of
    MOST_PATCHES labelled patches, drawn by the seed.
    """
    labelled = (labels.flatten() != IGNORE).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    chosen = labelled[torch.randperm(len(labelled), generator=generator)[:MOST_PATCHES]].sort()[0]
    image, patch, found, start = chosen // labels.shape[1], chosen % labels.shape[1], [], 0
    for batch in batches(clip, images, batch_size, "blocks"):
        here = (image >= start) & (image < start + len(batch))
        found.append([tokens[image[here] - start, patch[here]].cpu() for tokens in clip.block_features(batch)])
        start += len(batch)
    of_chosen = labels.flatten()[chosen]
    blocks = (torch.cat(parts) for parts in zip(*found, strict=True))
    return [coherence_roc(tokens, of_chosen, image, pairs=pairs, seed=seed)[-1] for tokens in blocks]


def patch_map(
    embeddings: Tensor, labels: Tensor, text: Tensor, *, classes: int, patches: int, seed: int
) -> pd.DataFrame:
    """A t-SNE picture of patches and class texts in one plane: columns x, y, label, is_text.

    embeddings [M, N, D], labels [M, N], text [K, D], one a class (its first phrase's). Shows the `classes` classes with
    the most patches, and the same number of patches of each, at most `patches` together.
    """
    from sklearn.manifold import TSNE

    embeddings, labels = embeddings.flatten(0, 1), labels.flatten()
    counts = torch.bincount(labels[labels != IGNORE], minlength=len(text))
    shown = counts.argsort(descending=True, stable=True)[:classes]
    generator = torch.Generator().manual_seed(seed)
    at = [(labels == k).nonzero()[:, 0] for k in shown]
    chosen = torch.cat([i[torch.randperm(len(i), generator=generator)[: patches // classes]] for i in at])
    points = F.normalize(torch.cat([embeddings[chosen].float(), text[shown].float().cpu()]), dim=-1).numpy()
    x, y = TSNE(init="pca", random_state=seed).fit_transform(points).T
    label, is_text = torch.cat([labels[chosen], shown]).numpy(), np.arange(len(points)) >= len(chosen)
    return pd.DataFrame({"x": x, "y": y, "label": label, "is_text": is_text})


def write_patch_alignment(
    folder: Path,
    benchmark: Benchmark,
    preds: dict[str, Tensor],
    labels: Tensor,
    curves: dict,
    blocks: list[float],
    maps: dict,
    *,
    seed: int,
) -> dict:
    """Writes patch_alignment.json, patch_accuracy.csv, patch_roc.json, blocks.json and patch_map.csv; returns what the
    first holds.

    By method: preds as `patch_predictions` gives them, curves as `coherence`, maps as `patch_map`. blocks: as
    `coherence_by_block`.
    """
    names = np.array(benchmark.names)
    result = {
        method: {"accuracy": patch_accuracy(p, labels), "accuracy_interval": accuracy_interval(p, labels, seed=seed)}
        for method, p in preds.items()
    }
    for method, curve in curves.items():
        result[method] = result.get(method, {}) | {"auc": curve["auc"], "auc_interval": curve["interval"]}
    write_json(folder / "patch_alignment.json", result)
    write_json(folder / "patch_roc.json", curves)
    write_json(folder / "blocks.json", {"auc": blocks})
    by_class = [accuracy_by_class(p, labels, names).assign(method=method) for method, p in preds.items()]
    pd.concat(by_class).round(6).to_csv(folder / "patch_accuracy.csv", index=False)
    plane = pd.concat([one.assign(method=method, label=names[one.label]) for method, one in maps.items()])
    columns = ["method", "x", "y", "label", "is_text"]
    plane[columns].round(4).to_csv(folder / "patch_map.csv", index=False)
    return result
