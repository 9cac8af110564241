"""Joins what the stages wrote into metrics.json, report.md and report.html, and compares two runs (paper, section 4).

python -m pacl.report [PROFILE]                                    where the report is, and the claims table
python -m pacl.report readme                                       brings the claims table in README.md up to date
python -m pacl.report compare OLD.json NEW.json [--tolerance 0.02]  exit status 1 where two metrics.json differ by more
"""

import argparse
import math
import os
import re
import sys
from pathlib import Path

from pacl.claims import TERMS, as_text
from pacl.config import ConfigError, find_file, project_root, read_yaml
from pacl.data import read_json, write_json

PARTS = ("patch_alignment", "segmentation", "classification")  # stages that measure, keys of metrics.json


MARKERS = ("<!-- claims: python -m pacl.report readme -->", "<!-- end of claims -->")  # of the table in README.md


def report_folder(profile: str) -> Path:
    return project_root() / "reports" / profile


def write_metrics(folder: Path) -> dict:
    """Joins folder's patch_alignment.json, segmentation.json and classification.json into metrics.json.

    Raises FileNotFoundError naming the stage that writes a missing one.
    """
    for part in PARTS:
        if not (folder / f"{part}.json").is_file():
            raise FileNotFoundError(f"{folder / part}.json is missing: run the stage {part} (`dvc repro {part}`).")
    metrics = {part: read_json(folder / f"{part}.json") for part in PARTS}
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "headline.json", headline(metrics))
    return metrics


def headline(metrics: dict) -> dict:
    """The few numbers that `dvc metrics` and `dvc exp show` put side by side: patch accuracy, the first protocol's mIoU
    of each benchmark, mean classification accuracy, CLIP's and PACL's, fractions in [0, 1].
    """
    sets = list(metrics["classification"].values())
    found = {
        "patch accuracy": {m: v["accuracy"] for m, v in metrics["patch_alignment"].items() if "accuracy" in v},
        **{
            f"{benchmark} mIoU": {m: values["miou"] for m, values in next(iter(of_benchmark.values())).items()}
            for benchmark, of_benchmark in metrics["segmentation"].items()
        },
        "classification": {m: sum(of_set[m] for of_set in sets) / len(sets) for m in (sets[0] if sets else {})},
    }
    return {
        name: {method: of[method] for method in ("clip", "pacl", "ensemble") if method in of}
        for name, of in found.items()
        if of
    }


def write_report(profile: str, params, folder: Path | None = None) -> Path:
    """Writes report.md and report.html from the files in `folder` (reports/<profile>), and returns the latter's path.

    params: all sections of the profile, as load_params gives them. A stage that hasn't run is named in its place.
    Raises FileNotFoundError without claims.json.
    """
    from pacl.chapters import chapters  # the command line needs neither templates nor Markdown
    from pacl.page import write_html, write_markdown

    folder = folder or report_folder(profile)
    content = chapters(profile, params, folder)
    write_markdown(content, folder / "report.md")
    write_html(content, folder / "report.html")
    return folder / "report.html"


def leaves(tree, path: str = "") -> dict:
    """Every value of nested tables and lists by its dotted path."""
    if not isinstance(tree, (dict, list)):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        name: leaf
        for key, value in items
        for name, leaf in leaves(value, f"{path}.{key}" if path else str(key)).items()
    }


def gap(old, new) -> float:
    """How far two values are apart: 0 for equal ones (also NaN), infinite for unequal ones that aren't both numbers."""
    if old == new or (old != old and new != new):
        return 0.0
    numbers = all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) for value in (old, new)
    )
    return abs(new - old) if numbers else math.inf


def compare(old: dict, new: dict, tolerance: float) -> tuple[list[str], bool]:
    """Lines on how two metrics.json differ, and whether they have values, all in both and within the tolerance."""
    before, after = leaves(old), leaves(new)
    gaps = {path: gap(before[path], after[path]) for path in before if path in after}
    lines = [f"{path} is only in the old file." for path in before if path not in after]
    lines += [f"{path} is only in the new file." for path in after if path not in before]
    too_far = sorted((path for path in gaps if gaps[path] > tolerance + 1e-9), key=gaps.get, reverse=True)
    lines += [f"{path}: {before[path]} -> {after[path]}, more than {tolerance} apart." for path in too_far]
    within = bool(gaps) and not lines
    if gaps:
        path = max(gaps, key=gaps.get)
        lines.append(
            f"Largest difference of {len(gaps)} values: {gaps[path]:.6f}, {path} ({before[path]} -> {after[path]})."
        )
    return lines, within


def as_tolerance(text: str) -> float:
    """A difference that may pass, as the command line gives it."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no tolerance: write a finite number from 0 on.")
    return value


def read_metrics(path: Path):
    """A metrics.json. Raises FileNotFoundError, or ValueError for what can't be read."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}): name a metrics.json.") from None


def compare_files(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pacl.report compare", description="Compares two metrics.json.")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=as_tolerance, default=0.02, help="largest difference that passes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    lines, within = compare(read_metrics(options.old), read_metrics(options.new), options.tolerance)
    print("\n".join(lines) or f"Neither {options.old} nor {options.new} holds a value: name two metrics.json.")
    return 0 if within else 1


def claims_table(claims: list[dict]) -> str:
    """The claims as a Markdown table; what all of them say of the data stands in the column's name only."""
    (label, *others) = {match[1] for claim in claims if (match := re.search(r" \(([^()]*)\)$", claim["measured"]))} or {
        ""
    }
    ends = "" if others or not label else f" ({label})"
    rows = [("Claim", "Paper", f"Ours{ends}", "Verdict"), ("---",) * 4]
    rows += [(c["claim"], c["paper"], c["measured"].removesuffix(ends), c["verdict"]) for c in claims]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def with_claims(readme: str, claims: list[dict]) -> str:
    """README.md's text with the table and its terms between the markers made anew. Raises ValueError without them."""
    before, begin, rest = readme.partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {MARKERS[0]} and {MARKERS[1]}: put them around the claims table.")
    return f"{before}{begin}\n\n{claims_table(claims)}\n\n{TERMS}\n\n{end}{after}"


def write_readme() -> int:
    """Brings README.md's claims table up to date with reports/mini."""
    path = project_root() / "README.md"
    text = with_claims(path.read_text(encoding="utf-8"), read_json(report_folder("mini") / "claims.json"))
    partial = path.with_name(f".README.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return 0


def show(profiles: list[str]) -> int:
    """Prints for each profile where its report is and what became of the claims."""
    for profile in profiles:
        page, claims = report_folder(profile) / "report.html", report_folder(profile) / "claims.json"
        if not page.is_file() or not claims.is_file():
            how = "make reproduce" if profile == "mini" else f"dvc exp run -S 'profiles=[{profile}]'"
            print(f"There is no report of {profile} yet ({page}): run `{how}`.", file=sys.stderr)
            return 1
        print(f"{as_text(read_json(claims))}\n\nReport of {profile}: {page}")
    return 0


def main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["compare"]:
            return compare_files(arguments[1:])
        if arguments == ["readme"]:
            return write_readme()
        return show(arguments or read_yaml(find_file("params.yaml")).get("profiles", []))
    except (ConfigError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
