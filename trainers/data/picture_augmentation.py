"""Alters training pictures; what the settings mean is in `sharetune.spaces.augmentation`.

Pillow alone: what lies outside a turned picture is the mean of its border.
"""

import random
from collections.abc import Callable
from io import BytesIO

from PIL import Image, ImageEnhance, ImageOps, ImageStat

from sharetune.spaces.augmentation import PICTURES, Augmentation
from sharetune.spaces.registry import Registry

PictureAlteration = Callable[[Image.Image, float, random.Random], Image.Image]
"""``(picture, setting, random) -> picture`` of the same size."""

PICTURE_ALTERATIONS: Registry[PictureAlteration] = Registry("picture alteration")


@PICTURE_ALTERATIONS.register("crop")
def crop(picture: Image.Image, most: float, rng: random.Random) -> Image.Image:
    """cuts up to the fraction `crop` off both sides, at a random place, and scales what is left"""
    kept = 1 - rng.uniform(0, most)
    width, height = kept * picture.width, kept * picture.height
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = left, top, left + width, top + height
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)


@PICTURE_ALTERATIONS.register("rotation")
def rotate(picture: Image.Image, most: float, rng: random.Random) -> Image.Image:
    """turns by up to `rotation` degrees to either side"""
    degrees = rng.uniform(-most, most)
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_border(picture))


@PICTURE_ALTERATIONS.register("flip")
def flip(picture: Image.Image, chance: float, rng: random.Random) -> Image.Image:
    """lets left and right change places with probability `flip`"""
    return ImageOps.mirror(picture) if rng.random() < chance else picture


@PICTURE_ALTERATIONS.register("brightness")
def brighten(picture: Image.Image, most: float, rng: random.Random) -> Image.Image:
    """multiplies every colour by 1 - `brightness` to 1 + `brightness`"""
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(1 - most, 1 + most))


@PICTURE_ALTERATIONS.register("contrast")
def stretch(picture: Image.Image, most: float, rng: random.Random) -> Image.Image:
    """multiplies the distance from the mean grey by 1 - `contrast` to 1 + `contrast`"""
    return ImageEnhance.Contrast(picture).enhance(rng.uniform(1 - most, 1 + most))


def altered(picture: Image.Image, settings: Augmentation, rng: random.Random) -> bytes:
    """`picture`, which is RGB, after all that `settings` ask for, as a PNG file."""
    for name in PICTURES:
        setting = getattr(settings, name)
        if setting:
            picture = PICTURE_ALTERATIONS[name](picture, setting, rng)
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _border(picture: Image.Image) -> tuple[int, ...]:
    edges = Image.new("L", picture.size, 255)
    inside = (1, 1, picture.width - 1, picture.height - 1)
    if picture.width > 2 and picture.height > 2:
        edges.paste(0, inside)
    return tuple(round(mean) for mean in ImageStat.Stat(picture, edges).mean)
