#!/usr/bin/env bash
# The same polygon, a square from (2, 2) to (6, 6), as COCO's annotations have it: pycocotools fills 16 pixels, OpenCV's fillPoly and
# Pillow's ImageDraw 25, because they also draw the border. Masks made from polygons by one aren't those of the other, and small objects
# differ by half.
# Seen with pycocotools 2.0.10, opencv-python-headless 4.12.0.88, and Pillow 12.0.0: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pycocotools==2.0.10 opencv-python-headless==4.12.0.88 numpy==2.2.6 Pillow==12.0.0
cd "$folder"
venv/bin/python - >seen <<'END'
import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask

square = [2, 2, 6, 2, 6, 6, 2, 6]
drawn = Image.new("L", (10, 10))
ImageDraw.Draw(drawn).polygon(square, fill=1)
filled = cv2.fillPoly(np.zeros((10, 10), np.uint8), [np.reshape(square, (-1, 2))], 1)
print("pycocotools", int(mask.area(mask.frPyObjects([square], 10, 10))[0]))
print("OpenCV", int(filled.sum()))
print("Pillow", int(np.array(drawn).sum()))
END
cat seen
diff - seen <<'END' || { echo "polygon_areas: the output has changed." >&2; exit 1; }
pycocotools 16
OpenCV 25
Pillow 25
END
