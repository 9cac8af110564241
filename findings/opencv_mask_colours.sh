#!/usr/bin/env bash
# OpenCV has no palettes: a PASCAL VOC mask read with IMREAD_GRAYSCALE gives the brightness of the labels' colours, and with
# IMREAD_UNCHANGED colours, never the labels. The grey values look like a label map: aeroplane (1) is 38, person (15) is 147.
# Pillow gives the labels.
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

labels = np.array([[0, 1, 15, 20, 255]], np.uint8)  # background, aeroplane, person, tv monitor, void
mask = Image.fromarray(labels)
colours = []
for label in range(256):  # PASCAL VOC's palette: the label's bits, dealt out to red, green, and blue, highest first
    rgb = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            rgb[channel] |= ((label >> (3 * place + channel)) & 1) << (7 - place) if 3 * place + channel < 8 else 0
    colours += rgb
mask.putpalette(colours)
mask.save("mask.png")
print("Pillow", np.array(Image.open("mask.png")).tolist())
print("OpenCV, greyscale", cv2.imread("mask.png", cv2.IMREAD_GRAYSCALE).tolist())
print("OpenCV, unchanged", list(cv2.imread("mask.png", cv2.IMREAD_UNCHANGED).shape))
END
cat seen
diff - seen <<'END' || { echo "opencv_mask_colours: the output is not the one above any more." >&2; exit 1; }
Pillow [[0, 1, 15, 20, 255]]
OpenCV, greyscale [[0, 38, 147, 52, 220]]
OpenCV, unchanged [1, 5, 3]
END
