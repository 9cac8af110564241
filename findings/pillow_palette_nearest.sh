#!/usr/bin/env bash
# Pillow resizes a palette image with the nearest pixel, whatever filter it is asked for, and says nothing. So a preprocessing that
# resizes first and converts to RGB afterwards gives palette PNGs and GIFs jagged edges, and another answer than the same picture in RGB.
# Seen with Pillow 12.0.0: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check Pillow==12.0.0
cd "$folder"
venv/bin/python - >seen <<'END'
from PIL import Image

row = Image.new("RGB", (8, 1))
for x in range(8):
    row.putpixel((x, 0), (255 * (x // 4),) * 3)  # four black pixels, four white ones
palette = row.convert("P", palette=Image.Palette.ADAPTIVE)
red = [pixel[0] for pixel in palette.convert("RGB").getdata()]
print("the same colours", red == [pixel[0] for pixel in row.getdata()])
for name, image in (("RGB", row), ("palette", palette)):
    small = image.resize((5, 1), Image.Resampling.BICUBIC).convert("RGB")
    print(name, [pixel[0] for pixel in small.getdata()])
END
cat seen
diff - seen <<'END' || { echo "pillow_palette_nearest: the output has changed." >&2; exit 1; }
the same colours True
RGB [0, 0, 128, 255, 255]
palette [0, 0, 255, 255, 255]
END
