"""Whether a run on real photographs repeats what others measured without training (data/expected.yaml): the check of a
set-up that comes before PACL's own number.
"""

import yaml

from pacl.report.results import Results
from pacl.runtime.config import project_root

AGREES, LOOK = "harness agrees", "look here first"  # the verdicts


def rules() -> list[dict]:
    return yaml.safe_load((project_root() / "data/expected.yaml").read_text(encoding="utf-8"))


def expectations(results: Results, chapters: list[str]) -> list[dict]:
    """Of each number of an untrained method in these chapters: number (its name), here (percent), literature (its
    range, or why there is none), verdict, source and look (what to check first).

    Raises ValueError for a run that others' numbers say nothing about, and one without numbers.
    """
    model = results.params.model
    if results.params.prepare.source == "miniworld" or model.pretrained != "openai":
        what = f"{results.label}, weights {model.pretrained}"
        raise ValueError(
            f"{results.profile} has {what}: others' numbers are for real photographs and OpenAI's weights."
        )
    found = [one for chapter in chapters for one in numbers(results, chapter)]
    if not found:
        raise ValueError(f"{results.profile} has no numbers yet: run its stages {', '.join(chapters)}.")
    return [judged(one, [rule for rule in rules() if applies(rule, one, model.backbone)], results) for one in found]


def numbers(results: Results, chapter: str) -> list[dict]:
    """A chapter's numbers but PACL's: chapter, method, `under` and `of` as the rules have them, and here, in %."""
    metrics = results.metrics[chapter] or {}
    if chapter == "patch_alignment":
        on = results.params.patch_alignment.benchmark
        rows = [(method, on, "accuracy", values.get("accuracy")) for method, values in metrics.items()]
        rows = [row for row in rows if row[0] not in ("random", "colours")]
    elif chapter == "segmentation":
        rows = [
            (method, protocol, benchmark, values["miou"])
            for benchmark, protocols in metrics.items()
            for protocol, methods in protocols.items()
            for method, values in methods.items()
        ]
    else:
        rows = [("clip", None, name, values["clip"]) for name, values in metrics.items()]
    return [
        {"chapter": chapter, "method": method, "under": on, "of": of, "here": 100 * value}
        for method, on, of, value in rows
        if method != "pacl" and value is not None
    ]


def applies(rule: dict, one: dict, backbone: str) -> bool:
    same = all(rule[key] == one[key] for key in ("chapter", "method"))
    return (
        same
        and rule["backbone"] == backbone
        and one["under"] in rule.get("under", [None])
        and one["of"] in rule["values"]
    )


def judged(one: dict, found: list[dict], results: Results) -> dict:
    row = {
        "number": name_of(one),
        "here": one["here"],
        "literature": "none known",
        "verdict": "",
        "source": "",
        "look": "",
    }
    if why := part_of(one, results):
        return row | {"literature": why}
    if not found:
        return row
    (rule,) = found
    value = rule["values"][one["of"]]
    low, high = value if isinstance(value, list) else (value, value)
    agrees = low - rule["slack"] <= one["here"] <= high + rule["slack"]
    literature = f"{low:g}" if low == high else f"{low:g}–{high:g}"
    verdict = {"literature": f"{literature} ± {rule['slack']:g}", "verdict": AGREES if agrees else LOOK}
    return row | verdict | {"source": rule["source"], "look": rule["look"]}


def part_of(one: dict, results: Results) -> str:
    """Why a number can't be compared: not all of the official test images; "" if it can."""
    benchmark = {"segmentation": one["of"], "patch_alignment": one["under"]}.get(one["chapter"])
    whole = results.prepared.get("whole benchmarks", [])
    limited = one["chapter"] == "classification" and results.params.prepare.classification_images is not None
    return "not the whole test split" if limited or (benchmark and benchmark not in whole) else ""


def name_of(one: dict) -> str:
    if one["chapter"] == "patch_alignment":
        return f"patch accuracy, {one['under']}, {one['method']}"
    measure = f"mIoU, {one['of']}, {one['under']}" if one["chapter"] == "segmentation" else f"accuracy, {one['of']}"
    return f"{measure}, {one['method']}"


def as_text(rows: list[dict]) -> str:
    """The numbers as an aligned table, then where they are from and what to look at, and a sentence on all."""
    cells = [("number", "here", "literature", "")]
    cells += [(row["number"], f"{row['here']:.1f}", row["literature"], row["verdict"]) for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(3)]
    lines = ["  ".join((*map(str.ljust, row, widths), row[3])).rstrip() for row in cells]
    off = [row for row in rows if row["verdict"] == LOOK]
    looks = dict.fromkeys(f"{row['number']}: {row['look']} ({row['source']})." for row in off)
    agreeing = sum(row["verdict"] == AGREES for row in rows)
    last = f"{agreeing} of {agreeing + len(off)} numbers that others published are met."
    return "\n".join([*lines, "", *(f"Look at {look}" for look in looks), last])
