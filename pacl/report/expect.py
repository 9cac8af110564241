"""Whether a run on real photographs repeats what others measured without training (data/expected.yaml): the check of a
set-up that comes before PACL's own number.
"""

from pacl.report.page import from_data
from pacl.report.results import Results

AGREES, LOOK = "harness agrees", "look here first"  # the verdicts


def expectations(results: Results, chapters: list[str]) -> list[dict]:
    """Of each number of an untrained method in these chapters: number (its name), here (percent), literature (its
    range, or why there is none), verdict, source and look (what to check first).

    Raises ValueError for a run that others' numbers say nothing about, and one without numbers.
    """
    model, rules = results.params.model, from_data("expected.yaml")
    if results.params.prepare.source == "miniworld" or model.pretrained != "openai":
        what = f"{results.profile} has {results.label}, weights {model.pretrained}"
        raise ValueError(f"{what}: others' numbers are for real photographs and OpenAI's weights.")
    found = [one for chapter in chapters for one in numbers(results, chapter)]
    if not found:
        raise ValueError(f"{results.profile} has no numbers yet: run its stages {', '.join(chapters)}.")
    return [judged(one, [rule for rule in rules if applies(rule, one, model.backbone)], results) for one in found]


def numbers(results: Results, chapter: str) -> list[dict]:
    """A chapter's numbers but PACL's: number (its name), here (in %), benchmark (None for classification), and chapter,
    method, `under` and `of` as the rules have them.
    """
    metrics, on = results.metrics[chapter] or {}, results.params.patch_alignment.benchmark
    if chapter == "patch_alignment":
        measured = {m: values["accuracy"] for m, values in metrics.items() if m != "random" and "accuracy" in values}
        rows = [(f"patch accuracy, {on}", m, on, on, "accuracy", value) for m, value in measured.items()]
    elif chapter == "segmentation":
        rows = [
            (f"mIoU, {benchmark}, {protocol}", method, benchmark, protocol, benchmark, values["miou"])
            for benchmark, protocols in metrics.items()
            for protocol, methods in protocols.items()
            for method, values in methods.items()
        ]
    else:
        rows = [(f"accuracy, {name}", "clip", None, None, name, values["clip"]) for name, values in metrics.items()]
    return [
        {"number": f"{name}, {method}", "here": 100 * value, "benchmark": benchmark}
        | {"chapter": chapter, "method": method, "under": under, "of": of}
        for name, method, benchmark, under, of, value in rows
        if method != "pacl"
    ]


def applies(rule: dict, one: dict, backbone: str) -> bool:
    same = (rule["chapter"], rule["method"], rule["backbone"]) == (one["chapter"], one["method"], backbone)
    return same and one["under"] in rule.get("under", [None]) and one["of"] in rule["values"]


def judged(one: dict, found: list[dict], results: Results) -> dict:
    row = {"number": one["number"], "here": one["here"], "verdict": "", "source": "", "look": ""}
    if is_part(one, results):
        return row | {"literature": "not the whole test split"}
    if not found:
        return row | {"literature": "none known"}
    (rule,) = found
    value = rule["values"][one["of"]]
    low, high = value if isinstance(value, list) else (value, value)
    agrees = low - rule["slack"] <= one["here"] <= high + rule["slack"]
    literature = f"{low:g}" if low == high else f"{low:g}–{high:g}"
    verdict = {"literature": f"{literature} ± {rule['slack']:g}", "verdict": AGREES if agrees else LOOK}
    return row | verdict | {"source": rule["source"], "look": rule["look"]}


def is_part(one: dict, results: Results) -> bool:
    """Whether a number is of a part of the official test images, which can't be compared."""
    if one["benchmark"] is None:
        return results.params.prepare.classification_images is not None
    return one["benchmark"] not in results.prepared.get("whole benchmarks", [])


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
