"""The brushes that paint the mini world's stuff textures: noise, colour ramps, pens, strokes and cells."""

import numpy as np
from PIL import Image, ImageColor, ImageDraw

TILE = 192  # pixels a side of a finished painting
FINE = 2 * TILE  # shapes are drawn on a sheet of twice the size, which is halved at the end, for smooth edges
ROWS, COLUMNS = np.mgrid[:TILE, :TILE].astype(np.float32)  # row and column number of every pixel, both [TILE, TILE]


def noise(rng, columns, rows=None):
    """Smooth noise [TILE, TILE] of about unit variance with features about TILE / columns pixels wide."""
    coarse = rng.standard_normal((rows or columns, columns)).astype(np.float32)
    return 1.3 * np.asarray(Image.fromarray(coarse).resize((TILE, TILE), Image.Resampling.BICUBIC))


def ramp(colours, position):
    """Colours [TILE, TILE, 3] along a list of hex colours, at position [TILE, TILE] from 0 (first) to 1 (last)."""
    stops = np.array([ImageColor.getrgb(colour) for colour in colours], dtype=np.float32)
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(position, places, stops[:, channel]) for channel in range(3)], axis=-1)


def ink(rng, colours, spread=0.06):
    """One of the hex colours, a little lighter or darker, as an RGB tuple."""
    red, green, blue = ImageColor.getrgb(colours[rng.integers(len(colours))])
    light = 1 + rng.uniform(-spread, spread)
    return min(int(red * light), 255), min(int(green * light), 255), min(int(blue * light), 255)


def blank_sheet(colour):
    """A blank sheet of FINE x FINE pixels and its pen; `colour` is a hex colour or a picture [TILE, TILE, 3]."""
    if isinstance(colour, str):
        sheet = Image.new("RGB", (FINE, FINE), colour)
    else:
        sheet = Image.fromarray(np.clip(colour, 0, 255).astype(np.uint8)).resize((FINE, FINE))
    return sheet, ImageDraw.Draw(sheet)


def disc(pen, x, y, across, down, colour):
    pen.ellipse((x - across, y - down, x + across, y + down), fill=colour)


def diamond(pen, x, y, across, down, colour):
    pen.polygon((x - across, y, x, y - down, x + across, y, x, y + down), fill=colour)


def cloud(pen, x, y, radii):
    """Five puffs in a row, the middle ones the largest, over their shade."""
    for drop, colour in ((6, "#b7cbdc"), (0, "#f3efe6")):
        for place, radius in zip((-2, -1, 0, 1, 2), radii, strict=True):
            puff = radius + 11 * (1 - abs(place) / 2.5)
            disc(pen, x + 15 * place, y - 0.6 * puff + drop, puff, puff, colour)


def crescent(pen, x, y, radius, colour):
    angle = np.linspace(-1.9, 1.9, 20)
    rim, inside = np.stack([np.cos(angle), np.sin(angle)], 1), np.stack([0.42 * np.cos(angle) - 0.06, np.sin(angle)], 1)
    moon = np.concatenate([rim, inside[::-1]]) * radius + [x, y]
    pen.polygon(moon.ravel().tolist(), fill=colour)


def daisy(pen, x, y):
    for angle in np.radians(range(0, 360, 72)):
        disc(pen, x + 4 * np.cos(angle), y + 4 * np.sin(angle), 3, 3, "#f6f1e2")
    disc(pen, x, y, 2.5, 2.5, "#e3b44c")


def leaf(pen, x, y, angle, length, colour):
    """A pointed leaf with a pale midrib, its stalk at x, y; `angle` in radians."""
    along, across = [0, 0.25, 0.5, 0.78, 1, 0.78, 0.5, 0.25], [0, 0.24, 0.3, 0.2, 0, -0.2, -0.3, -0.24]
    turn = length * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (np.stack([along, across], 1) @ turn + [x, y]).ravel().tolist()
    pen.polygon(points, fill=colour, outline="#25463a")
    pen.line(points[:2] + points[8:10], fill="#8fb383", width=2)


def lily_pad(pen, x, y, across, turn, colour, flower=False):
    """A notched round leaf lying on the water, with its shadow and perhaps a flower; `turn` in degrees."""
    for drop, shade in ((4, "#355d58"), (0, colour)):
        box = (x - across, y - 0.65 * across + drop, x + across, y + 0.65 * across + drop)
        pen.pieslice(box, turn, turn + 320, fill=shade)
    for lean, pink in ((-5, "#e8b3bd"), (5, "#e8b3bd"), (0, "#f6dbdb")) if flower else ():
        disc(pen, x + lean, y - 4, 4, 6, pink)


def scatter(rng, spacing, jitter=0.45):
    """Jittered grid points on the sheet, in random order."""
    grid = np.mgrid[-spacing : FINE + spacing : spacing, -spacing : FINE + spacing : spacing].reshape(2, -1).T
    return rng.permutation(grid + rng.uniform(-jitter, jitter, grid.shape) * spacing).tolist()


def cells(rng, across, down, warp=0.0):
    """Voronoi cells, across x down pixels: distance to the border and a tone (-1 to 1) a cell, both [TILE, TILE]."""
    y, x = (ROWS + warp * noise(rng, 12)) / down + 3, (COLUMNS + warp * noise(rng, 12)) / across + 3
    row, column = y.astype(int), x.astype(int)
    shape = (TILE // down + 12, TILE // across + 12)
    offset, tone = rng.uniform(0.12, 0.88, (2, *shape)), rng.uniform(-1, 1, shape)
    first, second, nearest = np.full((TILE, TILE), 9.0), np.full((TILE, TILE), 9.0), np.zeros((TILE, TILE))
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            place = (row + i, column + j)
            distance = np.hypot(row + i + offset[0][place] - y, column + j + offset[1][place] - x)
            nearest = np.where(distance < first, tone[place], nearest)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return second - first, nearest


def strokes(rng, pen, colours, spacing, length, lean, width):
    """Short brush strokes all over the sheet; `lean` is the angle from the vertical in radians, up to ±."""
    for x, y in scatter(rng, spacing):
        angle, long = rng.uniform(-lean, lean), length * rng.uniform(0.7, 1.3)
        pen.line((x, y, x + long * np.sin(angle), y - long * np.cos(angle)), ink(rng, colours), width)


def dry(painted, rng):
    """A sheet or a picture [TILE, TILE, 3] as an RGB image of TILE x TILE pixels, with some wash and paper grain."""
    if isinstance(painted, Image.Image):
        painted = np.asarray(painted.reduce(painted.width // TILE), dtype=np.float32)
    light = 1 + 0.025 * noise(rng, 5) + 0.012 * rng.standard_normal((TILE, TILE))
    return Image.fromarray(np.clip(painted * light[..., None], 0, 255).astype(np.uint8))
