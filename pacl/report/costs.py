"""The report's chapters on what a run costs and whether a long one can be trusted: numbers of `benchmarks`."""

from pathlib import Path
from string import ascii_uppercase

from pacl.report.blocks import bars, figure, heading, load, percent, table, text

ABOVE = ".."  # what is measured once for all profiles lies in reports/, above a profile's folder


def speed(folder: Path) -> list[dict]:
    """Time and memory beside the plain way, where an epoch's time goes, and what more pairs would cost."""
    measured = load(folder / ABOVE, "benchmarks.json")
    if measured is None:
        return [text("*Not measured here: `python -m benchmarks` does it, and the next report shows it.*")]
    return [
        text(
            f"The costly parts beside the plain way to write them; a share of 0.3 means three tenths of its time or "
            f"memory. Targets were set before measuring; ≤ stands before a limit in seconds or GB. "
            f"{missed(measured['items'])}No program that does the same work on the same machine can be faster than "
            f"the floor. {machines(measured['items'])}, without a GPU; "
            f"`python -m benchmarks` measures it anew. B images, K texts, N patches, D dimensions; bf16: bfloat16."
        ),
        figure(folder, f"{ABOVE}/benchmarks.png", "Time and memory as a share of the plain way's."),
        beside_the_plain_way(measured["items"]),
        *epoch(measured["items"]),
        *cost(measured.get("cost")),
    ]


def machines(items: dict) -> str:
    """On what they were measured; on several, each with the letter that its rows have."""
    letters = lettered(items)
    if len(letters) == 1:
        return f"All on {next(iter(letters))}"
    return "Each row was measured side by side on one machine: " + ", ".join(f"{b} on {a}" for a, b in letters.items())


def lettered(items: dict) -> dict[str, str]:
    """The items' machines, each with a letter."""
    return dict(zip(dict.fromkeys(map(cores, items.values())), ascii_uppercase, strict=False))


def cores(item: dict) -> str:
    return f"{item['machine']['cores']} cores of {item['machine']['processor']}"


def beside_the_plain_way(items: dict) -> dict:
    """One row for each thing that has a plain way, a target, or a floor."""
    lines, letters = [], lettered(items)
    for item in items.values():
        for name, row in zip(whole_names(item["rows"]), item["rows"], strict=True):
            beside = f" (beside {row['against']})" if row["against"] else ""
            beside += f" [{letters[cores(item)]}]" if len(letters) > 1 else ""
            of_kinds = [cell for kind in ("seconds", "gigabytes") for cell in of_kind(row, kind)]
            lines.append([f"{name}{beside}", *of_kinds, number(row.get("to_floor"))])
    columns = ["What", "Time, s", "Share", "Target", "Memory, GB", "Share", "Target", "Time / floor"]
    caption = "Measured here: our time and memory, their share of the plain way's, and the target"
    return table(columns, lines, caption=caption, unsorted=("Target",))


def of_kind(row: dict, kind: str) -> list[str]:
    """Ours, its share of the plain way's and the target: a share, or a limit (≤) in ours' own unit, and whether it was
    missed; "–" for none.
    """
    ours, share = row[kind].get("ours"), row["ratio"].get(kind)
    return [number(ours), number(share), " ".join(said for said, _ in targets(row, kind)) or "–"]


def targets(row: dict, kind: str) -> list[tuple[str, bool]]:
    """A row's target for one kind, if it has one: how it is written, and whether it was missed."""
    share, limit = row["targets"].get(kind), row["targets"].get(f"{kind}_limit")
    if share is None and limit is None:
        return []
    target, value = (limit, row[kind]["ours"]) if share is None else (share, row["ratio"][kind])
    wrote = number(target) if share is not None else f"≤ {number(target)}"
    return [(f"{wrote}, missed" if value > target else wrote, value > target)]


def missed(items: dict) -> str:
    """How many of the targets were missed, "" where there are none."""
    rows = [row for item in items.values() for row in item["rows"]]
    found = [late for row in rows for kind in ("seconds", "gigabytes") for _, late in targets(row, kind)]
    return f"Of {len(found)} targets, {sum(found)} were missed, which the table says. " if found else ""


def whole_names(rows: list[dict]) -> list[str]:
    """The rows' names, "the same, ..." with what it is the same as, since a sorted table has another order."""
    names = []
    for row in rows:
        name = row["name"]
        names.append(name.replace("the same", names[-1].split(",")[0], 1) if name.startswith("the same") else name)
    return names


def epoch(items: dict) -> list[dict]:
    """Where the time of an epoch goes, largest part first."""
    rows = [row for row in items.get("epoch", {}).get("rows", []) if "parts" in row]
    if not rows:
        return []
    (row,) = rows
    whole = row["seconds"]["ours"]
    parts = sorted(row["parts"].items(), key=lambda part: -part[1])
    said = [(part, seconds / whole, f"{percent(seconds / whole)} %") for part, seconds in parts]
    return [
        heading("Where does the time of an epoch go?"),
        bars(f"{row['name'][:1].upper()}{row['name'][1:]}: {number(whole)} s", said),
    ]


def cost(measured: dict | None) -> list[dict]:
    """What training costs as pairs become more."""
    if not measured:
        return []
    lines = [
        [
            f"{row['pairs']:,}",
            row["features"],
            number(row["seconds"] / 3600),
            number(row["disk_gigabytes"]),
            number(row["memory_gigabytes"]),
        ]
        for row in measured["rows"]
    ]
    return [
        heading("What would more pairs cost?"),
        text("Computed from the rates of features and an epoch, for ViT-B/16; nothing of it was run."),
        table(["Pairs", "Features", "Hours", "Disk, GB", "Memory, GB"], lines, caption="Cost by number of pairs"),
        text(" ".join(measured["notes"])),
    ]


def trust(folder: Path) -> list[dict]:
    """One training in several processes, memory while pairs are streamed, damaged files; of each, if it was tried."""
    ranks, memory, damaged = (
        load(folder / ABOVE, f"{name}.json") for name in ("ranks", "streaming_memory", "damaged_files")
    )
    content = []
    if ranks:
        numbers, apart = list(ranks["losses"]), max(map(float, ranks["largest_difference"].values()))
        content += [
            text(
                f"One training of {ranks['steps']:,} steps on batches of {ranks['batch_size']:,} pairs, run by "
                f"{', '.join(numbers[:-1])} and {numbers[-1]} processes that share each batch: every process contrasts "
                f"its images with all texts, so the loss is one process's; they are at most {apart:.1e} nats apart "
                f"(`python -m benchmarks.ranks`)."
            ),
            figure(folder, f"{ABOVE}/ranks.png", "Loss by step, and its distance from one process's."),
        ]
    if memory:
        grown = " and ".join(
            f"{number(growth)} {memory['unit']} in the {process}"
            for process, growth in memory["growth_per_1000_steps"].items()
        )
        content += [
            text(
                f"Pairs streamed from shards for {memory['steps']:,} steps: from step {memory['from_step']:,} on, "
                f"memory grows by {grown} in a thousand steps (`python -m benchmarks.streaming_memory`)."
            ),
            figure(folder, f"{ABOVE}/streaming_memory.png", "Memory while pairs are streamed."),
        ]
    if damaged:
        tried = sum(counts["tried"] for counts in damaged.values())
        rows = [[reader, f"{counts['tried']:,}", f"{counts['refused']:,}"] for reader, counts in damaged.items()]
        content += [
            text(
                f"{len(damaged)} readers were given {tried:,} damaged files, each with one to three faults: every one "
                "was read as an independent reading reads it, or refused with a sentence that names it "
                "(`python -m pytest tests/test_hostile.py -m slow`)."
            ),
            table(["Reader", "Damaged files", "Refused"], rows, caption="Damaged files"),
        ]
    return content


def number(value: float | None) -> str:
    """Three significant digits, thousands with commas, "–" for none."""
    if value is None:
        return "–"
    short = f"{value:,.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):g}"
    return short.replace("-", "−")
