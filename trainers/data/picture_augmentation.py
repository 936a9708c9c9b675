"""Alter training pictures; `sharetune.spaces.augmentation` documents the settings.

Needs Pillow only. The corners that a rotation uncovers are filled with the mean colour of the
picture's border.
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
"""Alterations of pictures, by the name of the setting that gives their strength."""


@PICTURE_ALTERATIONS.register("crop")
def crop(picture: Image.Image, limit: float, rng: random.Random) -> Image.Image:
    """crops both sides by up to the fraction `crop`, at a random place, and scales back up"""
    kept = 1 - rng.uniform(0, limit)
    width, height = kept * picture.width, kept * picture.height
    left, top = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    box = left, top, left + width, top + height
    return picture.resize(picture.size, Image.Resampling.BILINEAR, box=box)


@PICTURE_ALTERATIONS.register("rotation")
def rotate(picture: Image.Image, limit: float, rng: random.Random) -> Image.Image:
    """rotates by up to `rotation` degrees to either side"""
    degrees = rng.uniform(-limit, limit)
    return picture.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=_border(picture))


@PICTURE_ALTERATIONS.register("flip")
def flip(picture: Image.Image, probability: float, rng: random.Random) -> Image.Image:
    """mirrors left and right with probability `flip`"""
    return ImageOps.mirror(picture) if rng.random() < probability else picture


@PICTURE_ALTERATIONS.register("brightness")
def brighten(picture: Image.Image, limit: float, rng: random.Random) -> Image.Image:
    """multiplies every colour by 1 - `brightness` to 1 + `brightness`"""
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(1 - limit, 1 + limit))


@PICTURE_ALTERATIONS.register("contrast")
def stretch(picture: Image.Image, limit: float, rng: random.Random) -> Image.Image:
    """multiplies the distance from the mean grey by 1 - `contrast` to 1 + `contrast`"""
    return ImageEnhance.Contrast(picture).enhance(rng.uniform(1 - limit, 1 + limit))


def altered(picture: Image.Image, settings: Augmentation, rng: random.Random) -> bytes:
    """Return `picture` (RGB) after all alterations that `settings` ask for, as a PNG file."""
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
