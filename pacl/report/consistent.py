"""The report's chapter on whether the paper's patch accuracy and mean IoU fit each other (paper, section 4)."""

from pacl.figures.charts import NAMES
from pacl.report.page import figure, heading, missing, percent, say, table
from pacl.report.results import Results

VERDICTS = {True: "**Possible.**", False: "**Not possible.**", None: "**Open.**"}


def consistency(results: Results) -> list[dict]:
    found = results.consistency
    if found is None:
        return [missing("consistency.json")]
    return [
        say("consistency", conclusion=found["conclusion"]),
        figure(results, "consistency"),
        allowed(found["voc20"]),
        heading("Which readings could hold both?"),
        *(reading(one) for one in found["readings"]),
        heading("What does a patch grid cost by itself?"),
        say("perfect_patches"),
        patch_grid(found["perfect patches"]),
        heading("The same region here"),
        say("consistency_here", benchmark=found["own"]["benchmark"], protocol=found["own"]["protocol"]),
        own_points(found["own"]),
    ]


def allowed(voc: dict) -> dict:
    """What mean IoU each published accuracy allows, and the published one."""
    rows = []
    for point in voc["points"]:
        if point["accuracy"] is not None:
            edges = [voc[f"{name}_miou"][f"{point['accuracy']:g}"] for name in ("lowest", "spread", "highest")]
            said = "–".join(percent(miou) for miou in dict.fromkeys(point["miou"])) or "–"
            rows.append([point["name"], f"{100 * point['accuracy']:.2f}", *map(percent, edges), said])
    caption = "From the literature, on Pascal VOC's 20 classes: the mean IoU that each published accuracy allows"
    columns = ["Method", "Patch accuracy, %", "Lowest mIoU, %", "Evenly spread, %", "Highest, %", "Published mIoU, %"]
    return table(columns, rows, caption=caption, outside=True)


def reading(one: dict) -> dict:
    numbers = {name: percent(value) for name, value in one.items() if name not in ("id", "can")}
    return say(f"reading_{one['id']}", verdict=VERDICTS[one["can"]], **numbers)


def patch_grid(perfect: dict[str, dict[str, float]]) -> dict:
    strides = list(next(iter(perfect.values())))
    rows = [[name, *(percent(of[stride]) for stride in strides)] for name, of in perfect.items()]
    return table(["Benchmark", *(f"Stride {stride}, mIoU, %" for stride in strides)], rows)


def own_points(own: dict) -> dict:
    rows = [[NAMES[name], percent(of["accuracy"]), percent(of["miou"])] for name, of in own["points"].items()]
    return table(["Method", "Pixel accuracy, %", "mIoU, %"], rows, caption="Measured here")
