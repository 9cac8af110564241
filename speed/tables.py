"""Rows as text, as README.md's tables and as a figure; every number comes from the rows."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from pacl.report.page import markdown_table
from pacl.runtime.files import write_atomically

COLUMNS = ("measured", "against", "time, s", "of plain", "memory, GB", "of plain", "floor, s", "of floor")
COST_COLUMNS = ("pairs", "features", "time", "disk, GB", "memory, GB")
COLOURS = {"time": "#2a9d8f", "memory": "#c3cbdb"}  # they differ in lightness, too


def cells(row: dict) -> list[str]:
    """A row's cells in the order of COLUMNS: "plain → ours", and the target in brackets, reached or missed."""
    targets, ratio = row["targets"], row["ratio"]
    return [
        row["name"],
        row["against"] or "-",
        _change(row["seconds"], targets.get("seconds_limit")),
        _reached(ratio.get("seconds"), targets.get("seconds")),
        _change(row["gigabytes"], targets.get("gigabytes_limit")),
        _reached(ratio.get("gigabytes"), targets.get("gigabytes")),
        number(row.get("floor_seconds")),
        number(row.get("to_floor")),
    ]


def _change(of: dict[str, float], limit: float | None) -> str:
    if not of:
        return "-"
    if limit is not None:
        return _reached(of["ours"], limit)
    return " → ".join(number(of[variant]) for variant in ("plain", "ours") if variant in of)


def _reached(value: float | None, target: float | None) -> str:
    if value is None or target is None:
        return number(value)
    return f"{number(value)} (target {target:g}: {'reached' if value <= target else 'missed'})"


def number(value: float | None) -> str:
    """Three significant digits, "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):g}"


def text(rows: list[dict]) -> str:
    """For a terminal."""
    return pd.DataFrame(map(cells, rows), columns=COLUMNS).to_string(index=False)


def readme_tables(results: dict) -> dict[str, str]:
    """What stands between README.md's markers: one table per item, and cost."""
    found = {}
    for item, measured in results["items"].items():
        floors = dict.fromkeys(row["floor"] for row in measured["rows"] if row.get("floor"))
        notes = [f"Floor: {'; '.join(floors)}."] if floors else []
        table = markdown_table([cells(row) for row in measured["rows"]], COLUMNS)
        found[item] = "\n\n".join([table, *notes, *measured.get("notes", []), _machine_sentence(measured["machine"])])
    if "cost" in results:
        table = markdown_table([cost_cells(row) for row in results["cost"]["rows"]], COST_COLUMNS)
        found["cost"] = "\n\n".join([table, *results["cost"]["notes"]])
    return found


def cost_cells(row: dict) -> list[str]:
    sizes = [number(row[f"{place}_gigabytes"]) for place in ("disk", "memory")]
    return [f"{row['pairs']:,}", row["features"], duration(row["seconds"]), *sizes]


def duration(seconds: float) -> str:
    """In the largest unit of which there are at least two."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} seconds"


def _machine_sentence(machine: dict) -> str:
    return (
        f"Measured on {machine['cores']} cores of {machine['processor']} with {machine['memory_gigabytes']} GB of "
        f"memory, torch {machine['torch']}, Python {machine['python']}; the load at the start was {machine['load']}."
    )


def fill(path: Path, tables: dict[str, str]) -> None:
    """Rewrites the lines between `<!-- NAME -->` and `<!-- /NAME -->` for every table. Raises ValueError for a table
    without markers.
    """
    page = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if start not in page or end not in page:
            raise ValueError(f"{path.name} has no place for {name}: add the lines {start} and {end}.")
        before, after = page.split(start)[0], page.split(end)[1]
        page = f"{before}{start}\n{table}\n{end}{after}"
    write_atomically(path, page)


def figure(results: dict):
    """Ours as a share of the plain way's time and memory, with targets and floors; one group of bars per row."""
    rows = [row for item in results["items"].values() for row in item["rows"] if row["ratio"]]
    kinds = {"seconds": "time", "gigabytes": "memory"}
    shares = [(row["name"], kinds[kind], share) for row in rows for kind, share in row["ratio"].items()]
    bars = pd.DataFrame(shares, columns=["row", "of", "share"])
    height = 0.62 * len(rows) + 1.4
    drawing, axis = plt.subplots(figsize=(9, height))
    sns.barplot(bars, x="share", y="row", hue="of", hue_order=list(COLOURS), palette=COLOURS, saturation=1, ax=axis)
    for y, row in enumerate(rows):
        for shift, kind in ((-0.2, "seconds"), (0.2, "gigabytes")):
            if kind in row["targets"]:
                axis.vlines(row["targets"][kind], y + shift - 0.2, y + shift + 0.2, color="#d1495b", lw=2)
        if "floor_seconds" in row:
            axis.plot(row["floor_seconds"] / row["seconds"]["plain"], y - 0.2, "D", color="black", ms=4)
    axis.plot([], [], color="#d1495b", lw=2, label="target")
    axis.plot([], [], "D", color="black", ms=4, label="physical floor of time")
    axis.axvline(1, color="black", lw=0.8)
    axis.set(xlabel="share of the plain way's (1 = as much)", ylabel="")
    axis.legend(loc="upper center", bbox_to_anchor=(0.3, -0.8 / height), ncols=4, frameon=False)
    axis.set_title("Time and memory beside the plain way")
    return drawing
