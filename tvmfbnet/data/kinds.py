"""The kinds of data sets and how a user names one: plain text, so that help texts can show it and load nothing."""

from __future__ import annotations

# By kind: how its specs are written.
FORMS = {
    "fashion_mnist": "fashion_mnist[:DIR]",
    "cluttered_fashion_mnist": "cluttered_fashion_mnist[:DIR][?NAME=VALUE&...]",
    "fashion_scenes": "fashion_scenes[:DIR][?task=NAME&NAME=VALUE&...]",
    "cifar10": "cifar10[:DIR]",
    "imagefolder": "imagefolder:DIR[?classes=100]",
    "maskfolder": "maskfolder:DIR",
    "coco": "coco:DIR[?task=NAME]",
    "generated": "generated[?NAME=VALUE&...]",
}
KINDS = tuple(FORMS)
SPECS = f"{', '.join(list(FORMS.values())[:-1])} or {list(FORMS.values())[-1]}"
DATA_HELP = f"{SPECS}."
# Of files that are images, in small letters.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"})
