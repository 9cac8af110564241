"""Decides which of the paper's claims a run reproduces by the rules in data/claims.yaml (abstract and section 4), and
shows them as text and as the README's table.
"""

import operator
import re
import textwrap
from itertools import zip_longest
from pathlib import Path

from pacl.report.page import from_data, markdown_table
from pacl.report.results import Results
from pacl.runtime.files import read_json, write_json

REPRODUCED, NOT_REPRODUCED, NOT_TESTED = "reproduced", "not reproduced", "not tested"  # the only verdicts
TERMS = (
    "mIoU: intersection over union of predicted and true pixels, averaged over classes. AUC: area under the ROC curve; "
    "0.5 is chance. φ (phi): PACL's similarity of an image and a text."
)  # below each claims table
IN_README = {"mini": "Drawings, small CLIP", "photos": "Photographs, small CLIP (not OpenAI's)"}  # a column a profile
MARKERS = ("<!-- claims: python -m pacl.report readme -->", "<!-- end of claims -->")  # around the table in README.md


def load_ledger() -> list[dict]:
    """The claims of data/claims.yaml, in its order."""
    return from_data("claims.yaml")


def readmes_claims(reports: Path) -> dict[str, list[dict]]:
    """What `claims_table` takes: of IN_README's profiles those that have been run."""
    files = {title: reports / profile / "claims.json" for profile, title in IN_README.items()}
    return {title: read_json(path) for title, path in files.items() if path.is_file()}


def write_claims(results: Results) -> list[dict]:
    """Judges a run and writes claims.json."""
    claims = judge(load_ledger(), results.metrics, setting_of(results))
    write_json(results.folder / "claims.json", claims)
    return claims


def setting_of(results: Results) -> dict:
    """What a run was made with, as far as claims depend on it: its label (what its data are called), source, backbone,
    pretrained, "all test scenes of" (a list of benchmarks) and "patches of" (the benchmark of the patch alignment).
    """
    params = results.params
    return {
        "label": results.label,
        "source": params.prepare.source,
        "backbone": params.model.backbone,
        "pretrained": params.model.pretrained,
        "all test scenes of": results.prepared.get("whole benchmarks", []),
        "patches of": params.patch_alignment.benchmark,
    }


def judge(ledger: list[dict], metrics: dict, setting: dict) -> list[dict]:
    """One row for each claim: id, claim, paper, measured, verdict, reason (why it wasn't tested, or ""), place, kind,
    rule. metrics: as metrics.json has them, fractions in [0, 1]. setting: as `setting_of` returns it.
    """
    return [judge_one(claim, metrics, setting) for claim in ledger]


def judge_one(claim: dict, metrics: dict, setting: dict) -> dict:
    measured, reason = "not measured", untestable(claim, setting)
    quantities = [quantity(metrics, condition) for condition in claim["rule"]]
    if not reason and None in quantities:
        lacking = claim["rule"][quantities.index(None)]
        reason = f"metrics.json lacks {needed(lacking)}"
    elif None not in quantities and comparable(claim, setting):
        measured = f"{shown(claim, metrics, quantities)} ({setting['label']})"
    holds = [satisfied(value, condition) for value, condition in zip(quantities, claim["rule"], strict=True)]
    verdict = NOT_TESTED if reason else REPRODUCED if all(holds) else NOT_REPRODUCED
    row = {name: claim[name] for name in ("id", "claim", "paper")} | {"measured": measured, "verdict": verdict}
    return row | {"reason": reason, "place": claim["place"], "kind": claim["kind"], "rule": claim["words"].strip()}


def untestable(claim: dict, setting: dict) -> str:
    """Why this run can't decide the claim, whatever it measures; "" if it can."""
    if setting["pretrained"] == "random":
        return "the weights are random"
    known = {key: value if isinstance(value, list) else [value] for key, value in setting.items()}
    other = [f"{key} {value}" for key, value in claim.get("setting", {}).items() if value not in known[key]]
    return f"needs the paper's setting ({', '.join(other)})" if other else ""


def comparable(claim: dict, setting: dict) -> bool:
    """Whether the measured value may stand next to the paper's; the mini world's and random weights' may not."""
    return setting["pretrained"] != "random" and (claim["kind"] != "number" or setting["source"] != "miniworld")


def value_at(tree: dict, path: str):
    """The value at a dotted path, None where there is none."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def quantity(metrics: dict, condition: dict) -> float | None:
    """The value that a condition compares with its bound; None if the metrics lack a part of it."""
    if "over" not in condition:
        return difference(metrics, condition)
    entries = value_at(metrics, condition["over"]) or {}
    differences = [difference(entry, condition) for entry in entries.values()]
    if len(differences) < condition["sets"] or None in differences:
        return None
    taken = {"mean": sum(differences) / len(differences), "not_worse": sum(d >= 0 for d in differences)}
    return (taken | {"better": sum(d > 0 for d in differences), "count": len(differences)})[condition["take"]]


def difference(tree: dict, condition: dict) -> float | None:
    """The value minus that at `minus`, rounded to six decimals so that a tie in metrics.json is a tie."""
    parts = [value_at(tree, condition[key]) for key in ("value", "minus") if key in condition]
    known = all(isinstance(part, (int, float)) and part == part for part in parts)  # NaN is not a measurement
    return round(parts[0] - sum(parts[1:]), 6) if known else None


def needed(condition: dict) -> str:
    """The paths that a condition reads, in words."""
    paths = " and ".join(condition[key] for key in ("value", "minus") if key in condition)
    return f"{paths} of {condition['sets']} sets in {condition['over']}" if "over" in condition else paths


def satisfied(value: float | None, condition: dict) -> bool:
    bounds = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le}
    return value is not None and all(holds(value, condition[k]) for k, holds in bounds.items() if k in condition)


def shown(claim: dict, metrics: dict, quantities: list) -> str:
    """The claim's `measured` with its {path or name:format} filled in."""
    named = {rule.get("name"): value for rule, value in zip(claim["rule"], quantities, strict=True)}

    def filled(match: re.Match) -> str:
        path, form = match.groups()
        value = named[path] if path in named else value_at(metrics, path)
        return (f"{100 * value:+.1f} points" if form == "points" else format(value, form)).replace("-", "−")

    return re.sub(r"\{([\w.]+):([^}]+)\}", filled, claim["measured"])


def as_text(claims: list[dict]) -> str:
    """The claims as an aligned text table with wrapped cells: verdict, claim, paper, measured."""
    widths = (15, 44, 27, 40)
    rows = [("Verdict", "Claim", "Paper", "Measured here")]
    rows += [(claim["verdict"], claim["claim"], claim["paper"], claim["measured"]) for claim in claims]
    rows.insert(1, ["-" * width for width in widths])
    cells = [map(textwrap.wrap, row, widths) for row in rows]
    lines = [line for row in cells for line in zip_longest(*row, fillvalue="")]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def claims_table(runs: dict[str, list[dict]]) -> str:
    """The claims as a Markdown table with two columns a run; runs: the claims.json of each, by the columns' title."""
    (first, *_), titles = runs.values(), [title for name in runs for title in (name, "Verdict")]
    rows = [[claim["claim"], claim["paper"]] for claim in first]
    for claims in runs.values():
        for row, claim in zip(rows, claims, strict=True):
            row += [re.sub(r" \([^()]*\)$", "", claim["measured"]), claim["verdict"]]  # without the run's label
    return markdown_table(rows, ["Claim", "Paper", *titles])


def with_claims(readme: str, runs: dict[str, list[dict]]) -> str:
    """README.md's text with a new claims table between the markers. Raises ValueError if it lacks them."""
    before, begin, rest = readme.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {MARKERS[0]} and {MARKERS[1]}: put them around the claims table.")
    return f"{before}{begin}\n\n{claims_table(runs)}\n\n{TERMS}\n\n{end}{after}"
