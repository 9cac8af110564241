"""Figures of scenes: grids of images, heat maps, coloured label maps (paper, section 4: qualitative results)."""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

IGNORED = (1.0, 1.0, 1.0)  # the colour of pixels without a class


def image_grid(images: list, titles: list[str] | None = None):
    """Images, uint8 [H, W, 3] or PIL, eight in a row with a small title under each."""
    rows = -(-len(images) // 8)
    size = (12.8, rows * (2.02 if titles else 1.65))
    figure, axes = plt.subplots(rows, 8, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, images, strict=False):
        axis.imshow(image, interpolation="lanczos")
    for axis, title in zip(axes.flat, titles or (), strict=False):
        axis.text(0.5, -0.04, wrapped(title), fontsize=6.5, ha="center", va="top", transform=axis.transAxes)
    figure.subplots_adjust(wspace=0.12, hspace=0.3 if titles else 0.06)
    return figure


def wrapped(text: str, width: int = 25, lines: int = 3) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))


def heat_maps(images: list, prompts: list[str], maps: dict[str, list]):
    """One column for each image and its prompt: the image, then each method's similarity [h, w] over it, scaled to the
    map's own range.
    """
    size = (1.75 * len(images), 1.85 * (len(maps) + 1))
    figure, axes = plt.subplots(len(maps) + 1, len(images), figsize=size, squeeze=False)
    for column, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        axes[0, column].imshow(image, interpolation="lanczos")
        axes[0, column].set_title(f"“{prompt}”", fontsize=9, fontweight="normal")
        for row, method in enumerate(maps, 1):
            show_heat(axes[row, column], image, maps[method][column])
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    for row, label in enumerate(["image", *maps]):
        axes[row, 0].set_ylabel(label)
    figure.subplots_adjust(wspace=0.05, hspace=0.05)
    return figure


def overlays(image: np.ndarray, maps, titles: list[str], *, limits=None, label: str = "", signed: bool = False):
    """The image, then each map [h, w] over it with its title, all on one scale with a colour bar.

    limits: the scale's ends, by default the lowest and the highest value of all maps. label: the bar's. signed: values
    below zero are blue, those above red, and the scale is symmetric.
    """
    maps = [np.asarray(values) for values in maps]
    low, high = limits or (min(values.min() for values in maps), max(values.max() for values in maps))
    if signed:
        low, high = -max(-low, high), max(-low, high)
    side = min(2.5, 13 / (len(titles) + 1))
    size = (side * (len(titles) + 1) + 0.8, side + 0.2)
    figure, axes = plt.subplots(1, len(titles) + 1, figsize=size, squeeze=False, layout="constrained")
    axes[0, 0].imshow(image, interpolation="lanczos")
    for axis, values, title in zip(axes[0, 1:], maps, titles, strict=True):
        heat = show_heat(axis, image, values, (low, high), "RdBu_r" if signed else "inferno")
        axis.set_title(wrapped(title, 30), fontsize=8.5, fontweight="normal")
    for axis in axes.flat:
        axis.axis("off")
    bar = figure.colorbar(heat, ax=axes, label=label, aspect=15, shrink=0.85, pad=0.01)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.label.set_size(8.5)
    return figure


def show_heat(axis, image, values, limits=(None, None), cmap: str = "inferno"):
    """Draws a map [h, w] over the whole image in grey and returns it. limits: the darkest and the brightest value, by
    default the map's own range.
    """
    grey = np.asarray(image).mean(-1)
    extent = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    axis.imshow(grey, cmap="gray", interpolation="lanczos", vmin=-80, vmax=330)
    style = {"cmap": cmap, "vmin": limits[0], "vmax": limits[1], "alpha": 0.72}
    return axis.imshow(np.asarray(values), extent=extent, interpolation="nearest", **style)


def palette(count: int) -> np.ndarray:
    """`count` well-spread colours [count, 3] in [0, 1]; more colours begin with the same ones."""
    golden = (np.arange(count) * 0.61803398875) % 1
    return np.array(
        [sns.husl_palette(1, h=h, s=(0.75, 0.5)[i % 2], l=(0.6, 0.78, 0.47)[i % 3])[0] for i, h in enumerate(golden)]
    )


def segmentation_grid(images: list, columns: dict[str, list], classes: list[str]):
    """One row for each image: the image, then its label map in each column ("truth", "CLIP", ...), coloured, with the
    names of the classes in it.
    """
    figure = label_grid([[image, *labels] for image, *labels in zip(images, *columns.values(), strict=True)], classes)
    for axis, title in zip(figure.axes, ["image", *columns], strict=False):
        axis.set_title(title)
    return figure


def label_grid(rows: list[list], classes: list[str]):
    """Images, uint8 [H, W, 3] or PIL, and label maps [H, W] in rows, each as high as its highest, and columns."""
    colours = np.vstack([palette(len(classes)), IGNORED])
    rows = [[np.asarray(content) for content in row] for row in rows]
    heights = [max(content.shape[0] / content.shape[1] for content in row) for row in rows]
    size, grid = (2.6 * len(rows[0]), 2.55 * sum(heights)), {"height_ratios": heights}
    figure, axes = plt.subplots(len(rows), len(rows[0]), figsize=size, squeeze=False, gridspec_kw=grid)
    figure.subplots_adjust(wspace=0.04, hspace=0.05)
    for axis, content in zip(axes.flat, (content for row in rows for content in row), strict=True):
        axis.axis("off")
        if content.ndim == 3:
            axis.imshow(content, interpolation="lanczos")
        else:
            show_labels(axis, content, colours, classes)
    return figure


def show_labels(axis, labels: np.ndarray, colours: np.ndarray, classes: list[str]) -> None:
    """A label map with the names of its larger areas, where there is room for them; ignored pixels are white."""
    axis.imshow(colours[np.where(labels >= len(classes), len(classes), labels)], interpolation="nearest")
    axis.apply_aspect()
    present, areas = np.unique(labels[labels < len(classes)], return_counts=True)
    taken = []
    for label in present[np.argsort(-areas, kind="stable")][: (areas > labels.size * 0.03).sum()]:
        y, x = inmost(labels == label)
        name_area(axis, x, y, classes[label], taken)


def inmost(area: np.ndarray) -> tuple[int, int]:
    """Row and column in an area, bool [H, W], far from its edge: the middle of what remains when it is peeled."""
    while area.any():
        last, edged = area, np.pad(area, 1)
        area = area & edged[:-2, 1:-1] & edged[2:, 1:-1] & edged[1:-1, :-2] & edged[1:-1, 2:]
    ys, xs = np.nonzero(last)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return ys[middle], xs[middle]


def name_area(axis, x: float, y: float, name: str, taken: list) -> None:
    """Writes a name on a label map at x, y, moved inside the frame, unless it would cover one of the `taken` boxes."""
    box = {"boxstyle": "round,pad=0.15", "fc": (1, 1, 1, 0.75), "ec": "none"}
    text = axis.text(x, y, name, fontsize=8, ha="center", va="center", bbox=box, clip_on=True)
    frame, own = axis.get_window_extent(), padded(text)
    right = max(frame.x0 - own.x0, 0) - max(own.x1 - frame.x1, 0)
    up = max(frame.y0 - own.y0, 0) - max(own.y1 - frame.y1, 0)
    place = axis.transData.transform((x, y)) + (right, up)
    text.set_position(axis.transData.inverted().transform(place))
    own = padded(text)
    if any(own.overlaps(other) for other in taken):
        text.remove()
    else:
        taken.append(own)


def padded(text):
    """The area of the page that a text and its box cover."""
    return text.get_window_extent().padded(0.15 * text.get_fontsize() * text.figure.dpi / 72 + 1)
