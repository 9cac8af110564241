"""The mini world's stuff: painted backdrops such as brick wall, grass and sea, in place of COCO-Stuff's.

First what a stage asks for, then the brushes, then a painter for each texture, which returns a sheet or a picture.
"""

from functools import cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageOps

TILE = 192  # pixels a side of a finished painting
FINE = 2 * TILE  # pixels a side of the sheet that shapes are drawn on; halved at the end, for smooth edges
ROWS, COLUMNS = np.mgrid[:TILE, :TILE].astype(np.float32)  # row and column number of every pixel, both [TILE, TILE]
VARIANTS = 6  # paintings of each texture


def texture(name, rng, size=128):
    """A piece of the texture `name`, uint8 [size, size, 3]: a random crop of a random painting, mirrored half of the
    time, in slightly different light. Skies keep their top.

    size: in pixels, at most TILE. Raises ValueError for an unknown name or a size that does not fit.
    """
    if name not in SIDE:
        raise ValueError(f"unknown texture {name!r}: choose one of {', '.join(NAMES)}")
    if not 1 <= size <= TILE:
        raise ValueError(f"texture size {size} does not fit: choose 1 to {TILE} pixels")
    variant, left, top, mirrored = rng.integers((VARIANTS, TILE - size + 1, TILE - size + 1, 2)).tolist()
    top = 0 if SIDE[name] == "top" else top
    piece = painting(name, variant).crop((left, top, left + size, top + size))
    piece = ImageOps.mirror(piece) if mirrored else piece
    light = rng.uniform(0.9, 1.08) * rng.uniform(0.97, 1.03, (3, 1)) * np.arange(256)
    return np.array(piece.point(np.minimum(light, 255).astype(np.uint8).ravel().tolist()))


@cache
def painting(name, variant):
    """Painting `variant` of the texture `name`, an RGB image of TILE x TILE pixels; equal arguments, equal pixels."""
    rng = np.random.default_rng([NAMES.index(name), variant])
    return dry(PAINTERS[name](rng), rng)


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


def blue_sky(rng):
    sheet, pen = blank_sheet(ramp(["#6ea6d3", "#8fbfe0", "#b9d9e8", "#dbe9e6"], ROWS / 150 + 0.03 * noise(rng, 4)))
    for x, y in scatter(rng, 92):
        cloud(pen, x, y, rng.uniform(9, 15, 5))
    return sheet.filter(ImageFilter.BoxBlur(1))


def night_sky(rng):
    sheet, pen = blank_sheet(ramp(["#181d40", "#252c5a", "#3a3f75", "#575486"], ROWS / 150 + 0.1 * noise(rng, 5)))
    for x, y in scatter(rng, 24):
        disc(pen, x, y, *[rng.choice([1.2, 2.0, 2.6])] * 2, ink(rng, ["#f7eecb", "#cfd6f2", "#f3d9b8"], 0.2))
    for x, y in scatter(rng, 88):
        diamond(pen, x, y, 9, 2.5, "#fbf3cf")
        diamond(pen, x, y, 2.5, 9, "#fbf3cf")
    crescent(pen, rng.uniform(90, 290), rng.uniform(50, 110), rng.uniform(20, 28), "#f5e6b3")
    return sheet


def sunset(rng):
    sheet, pen = blank_sheet(ramp(["#7a6a9c", "#d08592", "#eda584", "#f7d49c"], ROWS / 118 + 0.03 * noise(rng, 3, 12)))
    x, y, radius = rng.uniform(60, 320), rng.uniform(90, 190), rng.uniform(20, 28)
    disc(pen, x, y, radius + 7, radius + 7, "#f6c795")
    disc(pen, x, y, radius, radius, "#fdeebf")
    for x, y in scatter(rng, 44):
        length = rng.uniform(24, 70)
        disc(pen, x, y + 3, length, 4, "#f9d7ac")
        disc(pen, x - 6, y, length, 4, ink(rng, ["#a8709a", "#cf7f90", "#8d6d9c"]))
    return sheet.filter(ImageFilter.BoxBlur(1))


def brick_wall(rng):
    sheet, pen = blank_sheet("#d5c3ae")
    height = int(rng.integers(18, 25))
    width, shift = int(2.2 * height), rng.integers(40)
    for row, top in enumerate(range(0, FINE, height)):
        for left in range(-width - (row % 2) * width // 2 - shift, FINE, width):
            clay = ink(rng, ["#b5654d", "#a85a48", "#bf7558", "#9c5145"], 0.08)
            pen.rounded_rectangle((left, top, left + width - 5, top + height - 5), 3, fill=clay)
            pen.line((left + 2, top + height - 6, left + width - 7, top + height - 6), "#86473c", 2)
    return sheet


def stone_wall(rng):
    down = int(rng.integers(17, 23))
    border, tone = cells(rng, int(1.4 * down), down, warp=0.8)
    stone = ramp(["#8d8983", "#a9a498", "#bdb5a3", "#9aa0a3"], 0.5 + 0.5 * tone)
    stone = stone * (1 + 0.06 * noise(rng, 40))[..., None] * (0.72 + 0.36 * np.minimum(border / 0.4, 1))[..., None]
    mortar = np.clip((border - 0.09) / 0.08, 0, 1)[..., None]
    return stone * mortar + np.array([86, 82, 78]) * (1 - mortar)


def tiles(rng):
    sheet, pen = blank_sheet("#eef0e6")
    side = int(rng.integers(36, 47))
    for top in range(-int(rng.integers(side)), FINE, side):
        for left in range(0, FINE, side):
            pen.rectangle((left, top, left + side - 4, top + side - 4), fill=ink(rng, ["#8cc0b8", "#7cb2b1"]))
            pen.line((left + 4, top + side - 10, left + 4, top + 4, left + side - 10, top + 4), "#c2e2d8", 2)
            diamond(pen, left - 2, top - 2, side / 5, side / 5, "#3f7f8c")
    return sheet


def planks(rng):
    sheet, pen = blank_sheet("#46332a")
    width = int(rng.integers(36, 50))
    for left in range(-int(rng.integers(30)), FINE, width):
        pen.rectangle((left, 0, left + width - 4, FINE), fill=ink(rng, ["#8b684f", "#7d5c48", "#967459"], 0.05))
        for x in rng.uniform(left + 4, left + width - 8, 5).tolist():
            wave = [(x + 2 * np.sin(y / 30 + x), y) for y in range(int(rng.integers(-60, 60)), FINE, 12)]
            pen.line(wave, fill=ink(rng, ["#6d4f3d", "#a58468"]), width=2)
        for y in rng.uniform(0, FINE, 2).tolist():
            for grow, colour in ((6, "#6d4f3d"), (4, "#8b684f"), (2, "#573d30")):
                disc(pen, left + width / 2, y, grow, 1.6 * grow, colour)
    return sheet


def grass(rng):
    sheet, pen = blank_sheet("#6f9448")
    strokes(rng, pen, ["#5f8741", "#7fa654", "#93b35f", "#a9c373", "#6b9650"], 9, 20, 0.5, 3)
    for x, y in scatter(rng, 120):
        daisy(pen, x, y)
    return sheet


def sand(rng):
    wave = (ROWS + 5 * noise(rng, 5, 4) + 1.5 * noise(rng, 14, 6)) / rng.uniform(11, 15)
    ripple = np.abs((wave % 1) - 0.3) + 0.04 * rng.standard_normal((TILE, TILE))
    sheet, pen = blank_sheet(ramp(["#c9a873", "#dcc08c", "#e8d1a2", "#efdcb2"], ripple * 1.8))
    for x, y in scatter(rng, 70):
        disc(pen, x, y, 3, 2, ink(rng, ["#f7ecd4", "#b48f63", "#d99f86"]))
    return sheet


def snow(rng):
    drift = (ROWS + 11 * noise(rng, 4, 3)) / rng.uniform(30, 42)
    sheet, pen = blank_sheet(ramp(["#fbfaf6", "#f3f4f4", "#e2e9f0", "#c9d6e6"], (drift % 1) ** 1.3))
    for x, y in scatter(rng, 36):
        disc(pen, x, y, *[rng.uniform(1.5, 3)] * 2, ink(rng, ["#ffffff", "#b9cae0"], 0.02))
    return sheet.filter(ImageFilter.BoxBlur(1))


def gravel(rng):
    sheet, pen = blank_sheet("#5b544e")
    for x, y in scatter(rng, int(rng.integers(12, 15))):
        across, down = rng.uniform(5, 9), rng.uniform(4, 7)
        red, green, blue = ink(rng, ["#a79b8b", "#8b8680", "#c2b49c", "#a3877a", "#8d97a0", "#d3cbbd"], 0.1)
        disc(pen, x, y, across, down, (red * 3 // 4, green * 3 // 4, blue * 3 // 4))
        disc(pen, x - 1, y - 1.5, across - 1.5, down - 1.5, (red, green, blue))
    return sheet


def mud(rng):
    wet = noise(rng, 9, 16)
    earth = ramp(["#49362a", "#5a4332", "#6b503a", "#7d6147"], 0.5 + 0.2 * noise(rng, 26, 40) + 0.2 * wet)
    puddle = np.clip((-wet - 0.85) * 8, 0, 1)[..., None]
    mirror = ramp(["#6b6a68", "#8b979c", "#b4c2c4"], (-wet - 0.8) / 1.5 + 0.25 * (noise(rng, 3, 30) > 0.6))
    rim = np.exp(-(((wet + 0.78) / 0.12) ** 2))[..., None]
    return (earth * (1 - puddle) + mirror * puddle) * (1 - 0.3 * rim)


def road(rng):
    sheet, pen = blank_sheet(np.array([101, 101, 108]) + 9 * rng.standard_normal((TILE, TILE, 1)))
    for number, top in enumerate(range(int(rng.integers(20, 70)), FINE, int(rng.integers(88, 108)))):
        for left in range(-int(rng.integers(90)), FINE, 92):
            pen.rectangle((left, top, left + 56, top + 9), fill=("#e6dfcf", "#dcb968")[number % 2])
    for x, y in scatter(rng, 150):
        steps = np.cumsum(rng.normal(0, 7, (7, 2)) + [4, 3], axis=0) + [x, y]
        pen.line(steps.ravel().tolist(), fill="#4d4d54", width=2)
    return sheet


def sea(rng):
    sheet, pen = blank_sheet("#3f7ea3")
    height, width = int(rng.integers(20, 26)), rng.uniform(44, 60)
    x = np.arange(-4, FINE + 8, 4)
    for top in range(-10, FINE, height):
        wave = top + 9 * np.abs(np.sin(np.pi * (x / width + rng.uniform()))) + 2 * np.sin(x / 31)
        crest, below = np.stack([x, wave], 1).ravel().tolist(), np.stack([x, wave + 6], 1).ravel().tolist()
        pen.polygon(crest + [FINE, FINE, 0, FINE], fill=ink(rng, ["#35719a", "#2e6690", "#3f80a5", "#27597f"], 0.03))
        pen.line(crest, fill="#bcd9dd", width=3)
        pen.line(below, fill="#5b98b5", width=2)
    return sheet


def pond(rng):
    sheet, pen = blank_sheet(ramp(["#3f6f69", "#4f8279", "#64968a"], 0.5 + 0.25 * noise(rng, 3, 16)))
    for x, y in scatter(rng, 60):
        for grow in (8, 16, 24):
            pen.ellipse((x - 1.6 * grow, y - 0.6 * grow, x + 1.6 * grow, y + 0.6 * grow), outline="#8fb8a8", width=2)
    for x, y in scatter(rng, 54):
        green = ink(rng, ["#8aa95c", "#7a9c58", "#9db96b"])
        lily_pad(pen, x, y, rng.uniform(13, 21), int(rng.integers(360)), green, flower=rng.uniform() < 0.25)
    return sheet


def ice(rng):
    border, tone = cells(rng, 36, 28, warp=1.5)
    ice = ramp(["#9ccbdc", "#aed8e4", "#c3e4ea"], 0.5 + 0.4 * tone + 0.15 * noise(rng, 6))
    ice = ice + 26 * (np.sin((COLUMNS + ROWS + 6 * noise(rng, 4)) / 9) > 0.75)[..., None]
    crack, shade = np.exp(-((border / 0.045) ** 2))[..., None], np.exp(-(((border - 0.12) / 0.06) ** 2))[..., None]
    return (ice * (1 - 0.16 * shade)) * (1 - crack) + 252 * crack


def parquet(rng):
    sheet, pen = blank_sheet("#7d5733")
    width, step = int(rng.integers(40, 56)), int(rng.integers(17, 22))
    for column, left in enumerate(range(-int(rng.integers(width)), FINE, width)):
        for top in range(-2 * width, FINE + width, step):
            start, end = (top, top + 0.7 * width) if column % 2 else (top + 0.7 * width, top)
            slat = (left, start, left + width - 2, end, left + width - 2, end + step - 3, left, start + step - 3)
            pen.polygon(slat, fill=ink(rng, ["#c99a62", "#bb8a53", "#d6aa72", "#c08f5c"]))
    return sheet


def chessboard(rng):
    side = rng.uniform(11, 16)
    dark = ((ROWS + rng.uniform(0, 40)) // side + (COLUMNS + rng.uniform(0, 40)) // side) % 2 == 1
    veins = np.exp(-((noise(rng, 22) / 0.2) ** 2))[..., None]
    return np.where(dark[..., None], np.array([58, 54, 60]) + 14 * veins, np.array([233, 223, 202]) - 18 * veins)


def carpet(rng):
    sheet, pen = blank_sheet("#8c3a45")
    side = int(rng.integers(44, 56))
    for row, y in enumerate(range(-side, FINE + side, side // 2)):
        for x in range(-side + (row % 2) * side // 2, FINE + side, side):
            for part, colour in ((0.40, "#c79a5b"), (0.32, "#3d4868"), (0.20, "#e3cfa4"), (0.11, "#8c3a45")):
                diamond(pen, x, y, 0.8 * part * side, 0.72 * part * side, colour)
            disc(pen, x + side / 2, y, 3, 3, "#e3cfa4")
    knots = 1 + 0.07 * np.where((COLUMNS + 2 * (ROWS // 2 % 2)) % 4 < 2, 1, -1)
    return np.asarray(sheet.reduce(2), dtype=np.float32) * knots[..., None]


def leaves(rng):
    sheet, pen = blank_sheet("#27463a")
    for x, y in scatter(rng, 20):
        leaf(pen, x, y, rng.uniform(0, 6.3), rng.uniform(34, 50), ink(rng, ["#3b684a", "#4e8257", "#659463"], 0.12))
    return sheet


def hay(rng):
    sheet, pen = blank_sheet("#8f6d30")
    strokes(rng, pen, ["#d9b45c", "#c79d45", "#e8cb7c", "#b5893b", "#f0dc9b"], 12, 56, np.pi, 4)
    return sheet


def polka_dots(rng):
    sheet, pen = blank_sheet(["#d48c9d", "#b892bd", "#d18aa8"][rng.integers(3)])
    step = int(rng.integers(26, 34))
    for row, y in enumerate(range(0, FINE + step, int(0.87 * step))):
        for x in range((row % 2) * step // 2 - step, FINE + step, step):
            disc(pen, x, y, 0.29 * step, 0.29 * step, "#f7eee2")
    return sheet


def plaid(rng):
    ground, band, line, accent = [ink(rng, [colour]) for colour in ("#84608a", "#443a63", "#f0e2c0", "#d0803f")]
    stripes = [ground] * 4 + [line] + [ground] * 4 + [band] * 4 + [accent] + [band] * 4
    sett = np.repeat(np.array(stripes, dtype=np.uint8), rng.integers(3, 5), axis=0)
    y, x = np.mgrid[:FINE, :FINE]
    return Image.fromarray(np.where(((x + y) // 2 % 4 < 2)[..., None], sett[x % len(sett)], sett[y % len(sett)]))


def lava(rng):
    border, tone = cells(rng, int(rng.integers(22, 32)), int(rng.integers(17, 23)), warp=2.0)
    cooled = (border + 0.06 * noise(rng, 24) + 0.1 * tone) / 0.62
    return ramp(["#fde59a", "#f8b048", "#e8762c", "#b8412a", "#5b2b2a", "#402528", "#4c2e2f"], cooled)


_GROUPS = {
    "sky": {"blue sky": blue_sky, "night sky": night_sky, "sunset": sunset},
    "wall": {"brick wall": brick_wall, "stone wall": stone_wall, "tiles": tiles, "planks": planks},
    "ground": {"grass": grass, "sand": sand, "snow": snow, "gravel": gravel, "mud": mud, "road": road},
    "water": {"sea": sea, "pond": pond, "ice": ice},
    "floor": {"parquet": parquet, "chessboard": chessboard, "carpet": carpet},
    "plants": {"leaves": leaves, "hay": hay},
    "cloth": {"polka dots": polka_dots, "plaid": plaid},
    "lava": {"lava": lava},
}
PAINTERS = {name: paint for painters in _GROUPS.values() for name, paint in painters.items()}
GROUPS = {group: list(painters) for group, painters in _GROUPS.items()}
NAMES = tuple(PAINTERS)
_GROUP_SIDE = {"sky": "top", "ground": "bottom", "water": "bottom", "floor": "bottom", "lava": "bottom"}
SIDE = {name: _GROUP_SIDE.get(group, "any") for group, names in GROUPS.items() for name in names}
