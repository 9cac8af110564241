#!/usr/bin/env bash
# OpenCV's bilinear resize, which most segmentation evaluators use, looks at two pixels on each side however far it shrinks: of
# stripes black, white, white, black it makes plain white at a quarter of the size. Pillow's filter of the same name averages all
# four to grey, and so does OpenCV's INTER_AREA. The same network gets other pixels from each.
# Seen with opencv-python-headless 4.12.0.88 and Pillow 12.0.0: the lines at the end.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check opencv-python-headless==4.12.0.88 numpy==2.2.6 Pillow==12.0.0
cd "$folder"
venv/bin/python - >seen <<'END'
import cv2
import numpy as np
from PIL import Image

stripes = np.tile(np.array([0, 255, 255, 0], np.uint8), (64, 16))  # 64 x 64 pixels
print("OpenCV, INTER_LINEAR", cv2.resize(stripes, (16, 16), interpolation=cv2.INTER_LINEAR)[8, 4:8].tolist())
print("OpenCV, INTER_AREA", cv2.resize(stripes, (16, 16), interpolation=cv2.INTER_AREA)[8, 4:8].tolist())
print("Pillow, BILINEAR", np.array(Image.fromarray(stripes).resize((16, 16), Image.BILINEAR))[8, 4:8].tolist())
END
cat seen
diff - seen <<'END' || { echo "opencv_no_antialias: the output has changed." >&2; exit 1; }
OpenCV, INTER_LINEAR [255, 255, 255, 255]
OpenCV, INTER_AREA [128, 128, 128, 128]
Pillow, BILINEAR [128, 128, 128, 128]
END
