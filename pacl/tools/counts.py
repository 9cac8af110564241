"""How many images and texts a whole run of a profile handles, by the data sets' official sizes."""

from pathlib import Path

from pacl.data.prompts import templates
from pacl.evaluation.ablations.quick import MEASURED
from pacl.runtime.files import read_json
from pacl.sources import caption_sets, classification_sets, segmentation_sets

NOUNS_GROW = 0.7  # distinct nouns grow with this power of the number of photos, in Flickr8k's first 1,000


def counted(profile: str, params, rehearsed: Path) -> dict[str, int]:
    """What a whole run handles. rehearsed: the project in which every stage ran on a few items."""
    prepare = params.prepare
    kept = prepare.train_pairs
    if prepare.source in caption_sets.CAPTIONED:
        kept = min(kept, caption_sets.CAPTIONED[prepare.source]["sizes"]["all"] - prepare.validation_scenes)
    trained_on, kept = kept, kept + prepare.validation_scenes
    few = read_json(rehearsed / "data/features" / profile / "texts.json")
    times = kept / sum(len(few[split]["captions"]) for split in ("train", "validation"))
    nouns = len(few["nouns"]) * times**NOUNS_GROW
    sizes = scene_counts(params)
    ablated = sum(size for name, size in sizes.items() if name in MEASURED)
    return {
        "trained on": trained_on,
        "kept images": kept + ablated,
        "kept texts": round(len(few["captions"]) * times + nouns * len(templates(params.features.templates))),
        "measured": ablated,
        "nouns": round(nouns),
        "aligned": sizes.get(params.patch_alignment.benchmark, 0),
        "classified": sum(images_of(name, params) for name in params.classification.sets),
        "class prompts": sum(prompts_of(name, params) for name in params.classification.sets),
    }


def scene_counts(params) -> dict[str, int]:
    """Benchmark -> the number of its test scenes."""
    if params.prepare.source == "miniworld":
        return dict.fromkeys(params.prepare.benchmarks, params.prepare.test_scenes)
    counts = {}
    for dataset, names in segmentation_sets.image_sets(params.prepare.benchmarks):
        official = dataset["sizes"].get(dataset["test"], 0)
        whole = official[0] if isinstance(official, tuple) else official
        counts |= dict.fromkeys(names, min(whole, params.prepare.test_scenes or whole))
    return counts


def images_of(name: str, params) -> int:
    """Test and validation images of a classification set."""
    most = params.prepare.classification_images
    if params.prepare.source == "miniworld":
        return 2 * most
    whole = classification_sets.described(name).get("images", most or 0)
    return min(whole, most or whole) + params.prepare.validation_scenes


def prompts_of(name: str, params) -> int:
    own = params.classification.templates == "own"
    forms = classification_sets.set_templates(name) if own else templates(params.classification.templates)
    return classification_sets.class_count(name) * len(forms) if params.prepare.source != "miniworld" else 0
