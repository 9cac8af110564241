"""What a whole run of a profile would need, from rates measured on this device: time, disk, memory."""

import resource
import time
from collections.abc import Callable
from itertools import chain, product
from pathlib import Path

import numpy as np
import torch

from pacl.clip import load_clip
from pacl.clip.frozen import FrozenCLIP
from pacl.data.benchmark import foreground
from pacl.data.images import Images
from pacl.data.prepared import all_scenes, read_pairs
from pacl.data.prompts import templates
from pacl.evaluation.ablations.quick import MEASURED, load_scenes, measure, scenes_file
from pacl.evaluation.ablations.readings import SCALES, settings_of
from pacl.evaluation.segmentation import with_images
from pacl.label_maps import label_maps
from pacl.loss import LogitScale
from pacl.model import VisionEmbedder
from pacl.runtime.config import load_params
from pacl.runtime.files import read_json
from pacl.runtime.params import Protocol
from pacl.runtime.processes import processes
from pacl.segment import interpolation_matrix, window_starts
from pacl.sources import shards
from pacl.tools.counts import counted, scene_counts
from pacl.training.train import batch_loss

SECTIONS = ("prepare", "model", "features", "train", "protocols", "patch_alignment", "segmentation", "classification")
PROMPTS, STEP_PAIRS, LABELLED = 32, 128, 256  # phrases and pairs that are timed, and a label map's side in pixels
PICTURES = 2 * (300 + 2 * 12 + 2 * 6)  # images read for the figures: CLIP and PACL on 300 scenes by size, the viewer's


def whole_run(profile: str, rehearsed: Path, pretrained: str, raw: Path) -> list[str]:
    """Lines to print. rehearsed: the project in which every stage ran on a few items; raw: the data they came from."""
    params = load_params(profile, *SECTIONS, "ablations")
    clip = load_clip(params.model.backbone, pretrained, tokens=params.model.tokens, dtype=params.model.dtype)
    prepared, features = (rehearsed / "data" / kind / profile for kind in ("prepared", "features"))
    counts, image_sets = counted(profile, params, rehearsed), all_scenes(prepared, "test")
    rates = measured(clip, params, training_images(rehearsed, profile), features)
    until = {
        "features": counts["kept images"] * rates["image"] + counts["kept texts"] * rates["text"],
        "train": training_seconds(params, rates),
    }
    after = {
        "patch_alignment": counts["aligned"] * rates["image"] * (1 + all_methods(clip, params.patch_alignment.methods)),
        **evaluation_seconds(clip, params, rates, image_sets),
        "classification": classification_seconds(clip, rates, counts),
        "ablation points": ablation_seconds(params, rates, counts),
    }
    rows = {**until, "a trained embedder after": sum(until.values()), **after}
    rows["all together" + without(params.segmentation.benchmarks, image_sets)] = sum((until | after).values())
    threads = "" if clip.device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return [
        f"The whole run of {profile} on this device ({clip.device.type}{threads}), from rates measured just now: "
        f"{1 / rates['image']:.1f} images/s, {1 / rates['text']:.1f} texts/s, a training step of "
        f"{params.train.batch_size} pairs in {step_seconds(rates, params.train.batch_size):.2f} s.",
        *(f"  {name:<{max(map(len, rows))}} {in_words(seconds):>12}" for name, seconds in rows.items()),
        *needed(clip, params, counts, raw),
    ]


def training_images(rehearsed: Path, profile: str) -> Images:
    """Of the rehearsed project; those unpacked from shards are named from its folder on."""
    source = read_pairs(rehearsed / "data/prepared" / profile, "train")[0].source
    return Images([rehearsed / path for path in source] if isinstance(source, list) else source)


def measured(clip: FrozenCLIP, params, images, features: Path) -> dict[str, float]:
    """Seconds an image (with decoding), a text, a phrase's pixel in a label map, an ablation's test scene, and of a
    step's parts that grow with pairs and with their square. features: of the rehearsal.
    """
    size = min(8, len(images))
    batch = torch.stack([clip.preprocess(images[i]) for i in range(size)])
    decoding = seconds_of(lambda: [clip.preprocess(images[i]) for i in range(size)]) / size
    image = seconds_of(lambda: clip.patch_features(batch)) / size
    captions = read_json(features / "texts.json")["captions"]
    text = seconds_of(lambda: clip.text_features(captions)) / len(captions)
    cosines = torch.rand(PROMPTS, LABELLED // 16, LABELLED // 16, device=clip.device)
    upscale = interpolation_matrix(LABELLED, LABELLED // 16, 16, 16, LABELLED).to(clip.device)
    label = seconds_of(lambda: label_maps(cosines, upscale, upscale, Protocol())) / (PROMPTS * LABELLED**2)
    kept = {
        name: load_scenes(scenes_file(features, name)) for name in MEASURED if scenes_file(features, name).is_file()
    }
    embedder = VisionEmbedder(clip.width, clip.dim, params.train.embedder)
    scene = seconds_of(lambda: measure(kept, embedder)) / max(1, sum(len(one.tokens) for one in kept.values()))
    small, large = (step(clip, params.train, pairs) for pairs in (STEP_PAIRS, 2 * STEP_PAIRS))
    square = max(0.0, large - 2 * small) / (2 * STEP_PAIRS**2)
    linear = max(0.0, small - square * STEP_PAIRS**2) / STEP_PAIRS
    rates = {"image": decoding + image, "text": text, "label": label, "scene": scene}
    return rates | {"linear": linear, "square": square}


def seconds_of(work: Callable) -> float:
    """The quicker of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def step(clip: FrozenCLIP, params, pairs: int) -> float:
    """Seconds of loss and gradients of a batch of so many pairs of noise."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    embedder = VisionEmbedder(clip.width, clip.dim, params.embedder, params.text_embedder).to(clip.device)
    logit_scale = LogitScale(max=params.max_logit_scale).to(clip.device)
    tokens, texts = torch.randn(pairs, h * w, clip.width), torch.randn(pairs, clip.dim)
    one = params.model_copy(update={"accumulate": 1})
    return seconds_of(
        lambda: batch_loss(embedder, logit_scale(), (tokens, texts, torch.arange(pairs)), one)[0].backward()
    )


def step_seconds(rates: dict, pairs: int) -> float:
    return rates["linear"] * pairs + rates["square"] * pairs**2


def training_seconds(params, rates: dict) -> float:
    steps = params.train.epochs * (params.train.pairs // params.train.batch_size)
    streamed = rates["image"] + rates["text"] if params.prepare.source == "webdataset" else 0.0
    size = params.train.batch_size
    return steps * (step_seconds(rates, size) + size * streamed)


def ablation_seconds(params, rates: dict, counts: dict) -> float:
    """Training and measuring of every point with every seed; points on other tokens or templates make them anew, and
    those of more pairs than there are are left out.
    """
    total = 0.0
    for changes in params.ablations.points.values():
        point = params.train.model_dump() | params.ablations.base | changes
        if point["pairs"] > counts["trained on"]:
            continue
        steps = point["epochs"] * (point["pairs"] // point["batch_size"])
        run = steps * step_seconds(rates, point["batch_size"]) + counts["measured"] * rates["scene"]
        total += len(params.ablations.seeds) * run
        if changes.get("tokens", params.model.tokens) != params.model.tokens:
            total += (point["pairs"] + counts["measured"]) * rates["image"]
        if changes.get("templates", params.features.templates) != params.features.templates:
            total += counts["nouns"] * len(templates(changes["templates"])) * rates["text"]
    return total


def classification_seconds(clip: FrozenCLIP, rates: dict, counts: dict) -> float:
    """Each image is read once for CLIP and PACL, by timm's vision encoders once for each."""
    return counts["classified"] * (2 if clip.is_timm else 1) * rates["image"] + counts["class prompts"] * rates["text"]


def evaluation_seconds(clip: FrozenCLIP, params, rates: dict, image_sets: dict) -> dict[str, float]:
    """What segmentation takes by protocol, what its pictures and the other readings of one model take beside it, each
    named with the benchmarks that it leaves out.
    """
    protocols, names = params.protocols.named(params.segmentation.protocols), params.segmentation.benchmarks
    left_out, shown = without(names, image_sets), "coco_stuff" if "coco_stuff" in names else names[-1]
    first = protocols[params.segmentation.protocols[0]].on(shown)
    picture = scene_seconds(clip, rates, first, sizes_on(shown, image_sets), ["pacl"], 1)
    return {
        **{
            f"segmentation, {name}{left_out}": segmentation_seconds(clip, params, rates, image_sets, protocol)
            for name, protocol in protocols.items()
        },
        "segmentation's pictures" + without([shown], image_sets): PICTURES * picture,
        "ablation readings" + without(["voc20"], image_sets): reading_seconds(clip, params, rates, image_sets),
    }


def segmentation_seconds(clip: FrozenCLIP, params, rates: dict, image_sets: dict, protocol: Protocol) -> float:
    """Of all methods; benchmarks of one image set and one size are read together."""
    counts, settings, total = scene_counts(params), params.segmentation, 0.0
    alone = processes() if clip.device.type == "cpu" else 1  # each process reads the texts, on one thread
    there = [name for name in settings.benchmarks if sizes_on(name, image_sets)]
    for _, _, wanted in with_images(image_sets, there, protocol):
        phrases, name = sum(phrase_count(one, protocol) for one in wanted.values()), next(iter(wanted))
        texts = phrases * len(templates(protocol.templates)) * rates["text"]
        sizes = sizes_on(name, image_sets)
        each = scene_seconds(clip, rates, protocol.on(name), sizes, settings.methods, phrases)
        total += max(counts[one] for one in wanted) * each + alone * texts
    return total


def reading_seconds(clip: FrozenCLIP, params, rates: dict, image_sets: dict) -> float:
    """Of one model read in several ways on test scenes, and of the searches before it."""
    settings, sizes = params.ablations, sizes_on("voc20", image_sets)
    scenes = min(settings.inference_scenes, scene_counts(params).get("voc20", 0))
    groups = settings_of(params.protocols.native, settings.strides, clip.patch_size).values()
    readings = chain.from_iterable(group.values() for group in groups)
    once = sum(scene_seconds(clip, rates, protocol, sizes, ["pacl"], 1) for protocol in readings)
    return scenes * once + search_seconds(clip, params, rates, image_sets)


def search_seconds(clip: FrozenCLIP, params, rates: dict, image_sets: dict) -> float:
    """Of the logit scales of each background rule with PACL and of each protocol with every method, on validation
    scenes, as large as the test's; each scale makes a label map.
    """
    total, native, sizes = 0.0, params.protocols.native, sizes_on("voc21", image_sets)
    scenes = min(params.ablations.inference_scenes, params.prepare.validation_scenes)
    rules = settings_of(native, [], clip.patch_size)["background"].values()
    searches = [(rule, ["pacl"]) for rule in rules if rule.background_rule != "none"]
    protocols = params.protocols.named(["native", "sclip", "tcl"]).values()
    searches += [(protocol, params.segmentation.methods) for protocol in protocols]
    voc21 = [described["voc21"] for _, _, described in image_sets.values() if "voc21" in described]
    for (protocol, methods), benchmark in product(searches, voc21):
        phrases = phrase_count(benchmark, protocol)
        total += scenes * scene_seconds(clip, rates, protocol, sizes, methods, phrases * len(SCALES))
        total += phrases * len(templates(protocol.templates)) * rates["text"]
    return total


def sizes_on(benchmark: str, image_sets: dict) -> list[tuple[int, int]]:
    """(H, W) of the rehearsed scenes of a benchmark; none where its data were absent."""
    sets = [images for images, _, described in image_sets.values() if benchmark in described]
    return [images[i].size[::-1] for images in sets for i in range(len(images))]


def without(names: list[str], image_sets: dict) -> str:
    """Words for those of the named benchmarks that no scene was rehearsed of, so that they are in no estimate."""
    left_out = [name for name in names if not sizes_on(name, image_sets)]
    return f" (without {', '.join(left_out)})" if left_out else ""


def phrase_count(benchmark: dict, protocol: Protocol) -> int:
    return sum(len(name.split(",")) for name in foreground(benchmark, protocol))


def scene_seconds(clip: FrozenCLIP, rates: dict, protocol: Protocol, sizes: list, methods, phrases: int) -> float:
    """Of a scene, the mean over sizes (H, W), none: 0; CLIP by the operations in its blocks, and the label maps."""
    if not sizes:
        return 0.0
    plain = operations(clip, clip.grid(clip.image_size, clip.image_size)[0] ** 2)
    blocks = np.mean([sum(operations(clip, n) for n in passes(clip, protocol, *size)) for size in sizes])
    pixels = np.mean([H * W for H, W in sizes])
    labelling = rates["label"] * pixels * phrases * len(methods)
    return float(all_methods(clip, methods) * rates["image"] * blocks / plain + labelling)


def all_methods(clip: FrozenCLIP, methods) -> float:
    """What several methods take of one's time: they differ in CLIP's last block only."""
    blocks = clip.model.visual.trunk.blocks if clip.is_timm else clip.model.visual.transformer.resblocks
    return 1 + (len(methods) - 1) / len(blocks)


def passes(clip: FrozenCLIP, protocol: Protocol, H: int, W: int) -> list[int]:
    """The number of tokens of each pass through CLIP that an image of H x W pixels takes."""
    scale = (protocol.short_side or min(H, W)) / min(H, W)
    H, W = (max(clip.patch_size, round(scale * side)) for side in (H, W))
    windows = 1
    if protocol.window:
        windows = len(window_starts(H, protocol.window, protocol.window_stride))
        windows *= len(window_starts(W, protocol.window, protocol.window_stride))
        H = W = protocol.window
    stride = protocol.token_stride or clip.patch_size
    if protocol.passes == "shifted":
        windows, stride = windows * (clip.patch_size // stride) ** 2, clip.patch_size
    h, w = (1 + (side - clip.patch_size) // stride for side in (H, W))
    return [h * w] * windows


def operations(clip: FrozenCLIP, N: int) -> int:
    """Multiplications and additions in one block for N tokens."""
    return 24 * N * clip.width**2 + 4 * N**2 * clip.width


def needed(clip: FrozenCLIP, params, counts: dict, raw: Path) -> list[str]:
    """Lines on disk and memory."""
    h, w = clip.grid(clip.image_size, clip.image_size)
    features = 2 * counts["kept images"] * h * w * clip.width + 2 * counts["kept texts"] * clip.dim
    lines = [f"Disk: {in_bytes(features)} of features"]
    if params.prepare.source == "webdataset":
        found = shards.find_shards(raw / shards.SHARDS["folder"])
        pairs = sum(shards.survey(found, 1.0)[0])
        in_shards = params.train.pairs * sum(path.stat().st_size for path in found) / pairs
        lines[0] += f", and {in_bytes(in_shards)} of shards by the size of those that are there"
    batch = 4 * params.train.batch_size * h * w * (clip.width + 3 * clip.dim) / params.train.accumulate
    aligned = 4 * counts["aligned"] * h * w * clip.width * (1 + len(params.patch_alignment.methods))
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    lines.append(
        f"Memory: {in_bytes(peak)} at most in the rehearsal; beyond it about {in_bytes(batch)} for a training batch "
        f"over all processes, {in_bytes(aligned)} for the tokens of notebook 4."
    )
    return [lines[0] + ".", lines[1]]


def in_words(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def in_bytes(count: float) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**29 else f"{count / 2**20:,.0f} MiB"
