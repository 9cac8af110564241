"""Measures segmentation on a whole split, several methods at once (paper, section 4)."""

from itertools import accumulate, groupby, pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pacl.clip.frozen import FrozenCLIP, class_text_features
from pacl.data.benchmark import background_listed, foreground, on_benchmark, target_of
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.label_maps import label_maps
from pacl.metrics import IGNORE_INDEX, confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from pacl.runtime.params import Protocol
from pacl.runtime.processes import in_parts, progress_bar
from pacl.segment import Method, coarse_logits, dense_logits, segment


def segmentation(
    clip: FrozenCLIP,
    methods: dict[str, Method],
    images: Images,
    masks: Masks,
    benchmarks: dict,
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """Confusion matrices over a whole split: benchmark -> method -> int64 [K, K].

    benchmarks: name -> {"classes", "table"} as pacl.data.prepared.read_scenes gives them; all are measured from the same tokens,
    and methods share all of CLIP's blocks but the last.
    """
    asked = {name: foreground(benchmark, protocol) for name, benchmark in benchmarks.items()}
    texts = texts_of(clip, asked, protocol.templates)
    union = torch.cat([features for features, _ in texts.values()])  # [M, D], every phrase of every benchmark
    own = dict(zip(texts, pairwise(accumulate((len(f) for f, _ in texts.values()), initial=0)), strict=True))
    confmats = {
        name: {method: torch.zeros(len(b["classes"]), len(b["classes"]), dtype=torch.long) for method in methods}
        for name, b in benchmarks.items()
    }
    own_protocol = {name: protocol.on(name) for name in benchmarks}
    if len({one.short_side for one in own_protocol.values()}) > 1:
        raise ValueError(f"{', '.join(benchmarks)} have a short_side each: measure them one by one.")
    sized = next(iter(own_protocol.values()))
    for picture, mask in equal_sizes(images, masks, batch_size):
        logits, rows, columns = coarse_logits(clip, methods, picture, union, sized)
        for name, benchmark in benchmarks.items():
            target = torch.from_numpy(np.stack([target_of(m, benchmark["table"]) for m in mask]))
            settings = on_benchmark(own_protocol[name], benchmark)
            for method, confmat in confmats[name].items():
                part = logits[method][:, slice(*own[name])]
                listed = background_listed(benchmark, protocol)
                preds = label_maps(part, rows, columns, settings, phrase_index=texts[name][1], background_listed=listed)
                confmat += confusion_matrix(preds.cpu(), target, len(benchmark["classes"]))
    return confmats


def segmentation_of_sets(
    clip: FrozenCLIP,
    methods: dict[str, Method],
    image_sets: dict[str, tuple[Images, Masks, dict]],
    names: list[str],
    protocol: Protocol,
    *,
    batch_size: int = 32,
) -> dict[str, dict[str, Tensor]]:
    """`segmentation` of the named benchmarks, whichever image set they belong to (pacl.data.prepared.all_scenes), on a CPU in a
    process a core.

    Raises ValueError for a benchmark that no set has.
    """
    confmats = {}
    for images, masks, wanted in with_images(image_sets, names, protocol):

        def measured(part: range, images=images, masks=masks, wanted=wanted) -> dict:
            some = images.some(part), masks.some(part)
            return segmentation(clip, methods, *some, wanted, protocol, batch_size=batch_size)

        parts = in_parts(measured, len(images), batch_size)
        confmats |= {name: {method: sum(part[name][method] for part in parts) for method in methods} for name in wanted}
    return {name: confmats[name] for name in names}


def with_images(
    image_sets: dict[str, tuple[Images, Masks, dict]], names: list[str], protocol: Protocol
) -> list[tuple[Images, Masks, dict]]:
    """Image sets with those of the named benchmarks that can be measured together: which the protocol wants at one
    size. Raises ValueError for a benchmark that no set has.
    """
    known = [name for _, _, benchmarks in image_sets.values() for name in benchmarks]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there are no scenes of {', '.join(unknown)}; prepare.benchmarks made {', '.join(known)}.")
    together = []
    for images, masks, benchmarks in image_sets.values():
        by_size = {}
        for name in filter(names.__contains__, benchmarks):
            by_size.setdefault(protocol.on(name).short_side, {})[name] = benchmarks[name]
        together += [(images, masks, wanted) for wanted in by_size.values()]
    return together


def texts_of(clip: FrozenCLIP, classes: dict[str, list[str]], template_list: str) -> dict:
    """class_text_features of several lists of classes, name -> (features [M, D], phrase_index [M]); a class that is in
    several is embedded once.
    """
    distinct = list(dict.fromkeys(name for names in classes.values() for name in names))
    features, index = class_text_features(clip, distinct, templates(template_list))
    of_class = {name: features[index == k] for k, name in enumerate(distinct)}
    return {
        key: (
            torch.cat([of_class[name] for name in names]),
            torch.tensor([k for k, name in enumerate(names) for _ in of_class[name]], device=features.device),
        )
        for key, names in classes.items()
    }


def equal_sizes(images: Images, masks: Masks, batch_size: int):
    """Batches of consecutive images of one size: (uint8 [B, 3, H, W], their B masks). Raises ValueError for a mask of
    another size than its image.
    """
    pairs = progress_bar(((images[i], masks[i]) for i in range(len(images))), total=len(images), desc="scenes")
    for _, group in groupby(pairs, key=lambda pair: pair[0].size):
        for batch in chunks(group, batch_size):
            for image, mask in batch:
                if mask.shape != image.size[::-1]:
                    raise ValueError(
                        f"a mask is {mask.shape[1]} x {mask.shape[0]} pixels, its image "
                        f"{image.width} x {image.height}: they must be of one size."
                    )
            yield (
                torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image, _ in batch])).permute(0, 3, 1, 2),
                [mask for _, mask in batch],
            )


def chunks(items, size: int):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def scores(confmats: dict[str, dict[str, dict[str, Tensor]]]) -> dict:
    """What segmentation.json holds, benchmark -> protocol -> method -> {"miou", "pixel_accuracy"}, of confusion
    matrices by protocol, benchmark and method.
    """
    return {
        benchmark: {
            protocol: {
                method: {"miou": mean_iou(confmat), "pixel_accuracy": pixel_accuracy(confmat)}
                for method, confmat in of_protocol[benchmark].items()
            }
            for protocol, of_protocol in confmats.items()
        }
        for benchmark in next(iter(confmats.values()))
    }


def scores_by_class(confmats: dict, classes: dict[str, list[str]]) -> pd.DataFrame:
    """IoU of every class, of confusion matrices by protocol, benchmark and method: columns benchmark, protocol,
    method, class, iou.
    """
    rows = [
        (benchmark, protocol, method, name.split(",")[0], iou)
        for protocol, of_protocol in confmats.items()
        for benchmark, of_benchmark in of_protocol.items()
        for method, confmat in of_benchmark.items()
        for name, iou in zip(classes[benchmark], iou_per_class(confmat).tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["benchmark", "protocol", "method", "class", "iou"])


def examples(masks: Masks, count: int, labels: int = 3) -> list[int]:
    """The first `count` scenes with at least `labels` different labels in them: shown as they come, not picked."""
    rich = (i for i in range(len(masks)) if len(np.unique(masks[i])) >= labels)
    return [i for _, i in zip(range(count), rich, strict=False)]


def prompt_maps(
    clip: FrozenCLIP,
    methods: dict[str, Method],
    images: Images,
    masks: Masks,
    benchmark: dict,
    shown: list[int],
    protocol: Protocol,
):
    """For each shown scene the name of its largest class, and each method's cosine of every pixel with it: names,
    method -> maps [H, W].
    """
    largest = [
        np.bincount(target_of(masks[i], benchmark["table"]).ravel(), minlength=256)[:IGNORE_INDEX].argmax()
        for i in shown
    ]
    names = [benchmark["classes"][k].split(",")[0] for k in largest]
    texts = class_text_features(clip, names, templates(protocol.templates))[0]
    maps = {
        name: [
            dense_logits(clip, method, images[i], text[None], protocol)[0].cpu()
            for i, text in zip(shown, texts, strict=True)
        ]
        for name, method in methods.items()
    }
    return names, maps


def label_examples(
    clip: FrozenCLIP, methods: dict[str, Method], images: Images, benchmark: dict, shown: list[int], protocol: Protocol
) -> dict:
    """Each method's label maps of the shown scenes: method -> [int64 [H, W], ...]."""
    text, index = class_text_features(clip, foreground(benchmark, protocol), templates(protocol.templates))
    options = {"phrase_index": index, "background_listed": background_listed(benchmark, protocol)}
    protocol = on_benchmark(protocol, benchmark)
    return {
        name: [segment(clip, method, images[i], text, protocol, **options).cpu() for i in shown]
        for name, method in methods.items()
    }
