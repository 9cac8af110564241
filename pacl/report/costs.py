"""The report's chapters on what a run costs and whether a long one can be trusted: numbers that speed/ measured."""

import re
from string import ascii_uppercase

from pacl.report.page import bars, capital, figure, heading, percent, say, table, text
from pacl.report.results import Results


def speed(results: Results) -> list[dict]:
    if results.speed is None:
        return [say("no_speed")]
    items = results.speed["items"]
    return [
        say("speed", missed=missed(items), machines=machines(items), gpu="too" if "gpu" in items else "not measured"),
        *picture(results, "speed"),
        against_the_plain_way(items),
        *epoch(items),
        *cost(results.speed.get("cost")),
    ]


def picture(results: Results, name: str) -> list[dict]:
    """A picture that was drawn with the numbers, if it is there."""
    return [figure(results, name, folder="..")] if f"../{name}.png" in results.pictures else []


def machines(items: dict) -> str:
    letters = lettered(items)
    if len(letters) == 1:
        return f"All on {next(iter(letters))}"
    return "Each row was measured side by side on one machine: " + ", ".join(f"{b} on {a}" for a, b in letters.items())


def lettered(items: dict) -> dict[str, str]:
    """The items' machines, each with the letter that its rows carry if there are several."""
    return dict(zip(dict.fromkeys(map(cores, items.values())), ascii_uppercase, strict=False))


def cores(item: dict) -> str:
    return f"{item['machine']['cores']} cores of {item['machine']['processor']}"


def against_the_plain_way(items: dict) -> dict:
    """One row for each thing that has a plain way, a target, or a floor."""
    lines, letters = [], lettered(items)
    for item in items.values():
        for name, row in zip(whole_names(item["rows"]), item["rows"], strict=True):
            plain = f" (against {row['against']})" if row["against"] else ""
            plain += f" [{letters[cores(item)]}]" if len(letters) > 1 else ""
            of_kinds = [cell for kind in ("seconds", "gigabytes") for cell in of_kind(row, kind)]
            lines.append([f"{name}{plain}", *of_kinds, number(row.get("to_floor"))])
    columns = ["What", "Time, s", "Share", "Target", "Memory, GB", "Share", "Target", "Time / floor"]
    caption = "Measured here: our time and memory, their share of the plain way's, and the target"
    return table(columns, lines, caption=caption, unsorted=("Target",))


def of_kind(row: dict, kind: str) -> list[str]:
    """Our value, its share of the plain way's, and the target with whether it was missed; "–" for none."""
    written, late = target(row, kind)
    return [number(row[kind].get("ours")), number(row["ratio"].get(kind)), written + ", missed" * bool(late)]


def target(row: dict, kind: str) -> tuple[str, bool | None]:
    """A row's target, a share or a limit (≤) in our value's unit, and whether it was missed; "–" and None for none."""
    share, limit = row["targets"].get(kind), row["targets"].get(f"{kind}_limit")
    if share is not None:
        return number(share), row["ratio"][kind] > share
    return ("–", None) if limit is None else (f"≤ {number(limit)}", row[kind]["ours"] > limit)


def missed(items: dict) -> str:
    """How many of the targets were missed, "" if there are none."""
    rows = [row for item in items.values() for row in item["rows"]]
    tried = [target(row, kind)[1] for row in rows for kind in ("seconds", "gigabytes")]
    found = [late for late in tried if late is not None]
    return f"Targets missed: {sum(found)} of {len(found)}; the table marks them. " if found else ""


def whole_names(rows: list[dict]) -> list[str]:
    """The rows' names with "the same" replaced by what it refers to, because sorting changes the order."""
    names = []
    for row in rows:
        before = names[-1].split(",")[0] if names else ""
        names.append(re.sub("^the same", before, row["name"]))
    return names


def epoch(items: dict) -> list[dict]:
    """Where the time of an epoch goes, largest part first."""
    row = next((row for row in items.get("epoch", {}).get("rows", []) if "parts" in row), None)
    if not row:
        return []
    whole = row["seconds"]["ours"]
    parts = sorted(row["parts"].items(), key=lambda part: -part[1])
    shares = [(part, seconds / whole, f"{percent(seconds / whole)} %") for part, seconds in parts]
    title = f"{capital(row['name'])}: {number(whole)} s"
    return [heading("Where does the time of an epoch go?"), bars(title, shares)]


def cost(measured: dict | None) -> list[dict]:
    """What training would cost with more pairs."""
    if not measured:
        return []
    lines = []
    for row in measured["rows"]:
        sizes = map(number, (row["seconds"] / 3600, row["disk_gigabytes"], row["memory_gigabytes"]))
        lines.append([f"{row['pairs']:,}", row["features"], *sizes])
    columns = ["Pairs", "Features", "Hours", "Disk, GB", "Memory, GB"]
    shown = table(columns, lines, caption="Cost by number of pairs")
    return [heading("What would more pairs cost?"), say("cost"), shown, text(" ".join(measured["notes"]))]


def trust(results: Results) -> list[dict]:
    """One training in several processes, memory while pairs are streamed, damaged files: those that were tried."""
    return [*processes(results), *streaming(results), *damaged(results.damaged)]


def processes(results: Results) -> list[dict]:
    ranks = results.ranks
    if not ranks:
        return []
    *numbers, last = ranks["losses"]
    apart = max(map(float, ranks["largest_difference"].values()))
    about = {"steps": ranks["steps"], "batch_size": ranks["batch_size"], "numbers": ", ".join(numbers), "last": last}
    return [say("processes", apart=apart, **about), *picture(results, "ranks")]


def streaming(results: Results) -> list[dict]:
    memory = results.memory
    if not memory:
        return []
    growths = memory["growth_per_1000_steps"].items()
    grown = " and ".join(f"{number(growth)} {memory['unit']} in the {process}" for process, growth in growths)
    said = say("streaming", steps=memory["steps"], from_step=memory["from_step"], grown=grown)
    return [said, *picture(results, "streaming_memory")]


def damaged(readers: dict | None) -> list[dict]:
    if not readers:
        return []
    rows = [[reader, f"{counts['tried']:,}", f"{counts['refused']:,}"] for reader, counts in readers.items()]
    said = say("damaged", readers=len(readers), tried=sum(counts["tried"] for counts in readers.values()))
    return [said, table(["Reader", "Damaged files", "Refused"], rows, caption="Damaged files")]


def number(value: float | None) -> str:
    """Three significant digits, thousands with commas, "–" for none."""
    if value is None:
        return "–"
    short = f"{value:,.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):g}"
    return short.replace("-", "−")
