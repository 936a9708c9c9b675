"""Altered pictures: what changes, by how much, and what a training reads."""

import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sharetune.spaces import Recipe
from sharetune.spaces.augmentation import PICTURES, Augmentation
from sharetune.spaces.errors import ConfigError
from sharetune.trainers.data.picture_augmentation import PICTURE_ALTERATIONS, altered
from sharetune.trainers.tasks.base import TASKS, read_task
from sharetune.trainers.tasks.image_classification import PictureReader


class Fixed(random.Random):
    """Draws the upper end of every range, and 0 where there is none."""

    def uniform(self, low, high):
        return high

    def random(self):
        return 0.0


def halves(left=(200, 100, 0), right=(0, 0, 0), size=8):
    picture = Image.new("RGB", (size, size), right)
    picture.paste(left, (0, 0, size // 2, size))
    return picture


def row(picture, y=3):
    """The red of one row."""
    return [picture.getpixel((x, y))[0] for x in range(picture.width)]


def changed(name, setting, picture=None):
    return PICTURE_ALTERATIONS[name](picture or halves(), setting, Fixed())


def test_left_and_right_change_places():
    assert row(changed("flip", 0.5)) == [0, 0, 0, 0, 200, 200, 200, 200]
    assert row(PICTURE_ALTERATIONS["flip"](halves(), 0.0, Fixed())) == [200] * 4 + [0] * 4


def test_half_of_both_sides_is_cut_off_and_the_rest_scaled_back():
    # the lower right quarter of 8 x 8 is black but for what scaling takes from its neighbours
    found = changed("crop", 0.5)
    assert found.size == (8, 8)
    assert max(row(found)) <= 100
    assert row(found)[-1] == 0


def test_a_quarter_turn_puts_left_below_and_a_small_one_fills_with_the_border():
    turned = changed("rotation", 90)
    assert [turned.getpixel((3, y))[0] for y in (0, 7)] == [0, 200]
    grey = Image.new("RGB", (9, 9), (90, 90, 90))
    assert np.unique(changed("rotation", 30, grey)).tolist() == [90]


def test_colours_are_multiplied():
    assert changed("brightness", 0.25).getpixel((0, 0)) == (250, 125, 0)
    # mean grey of (119 + 0) / 2 rounds to 60: 60 + 1.5 (200 - 60) is cut at 255, 60 - 90 at 0
    found = changed("contrast", 0.5)
    assert found.getpixel((0, 0)) == (255, 120, 0)
    assert found.getpixel((7, 7)) == (0, 0, 0)


def test_every_key_of_pictures_is_registered():
    assert set(PICTURES) == set(PICTURE_ALTERATIONS)


def test_settings_become_one_picture_and_the_same_every_time():
    settings = Augmentation(flip=1.0, brightness=0.25)
    file = altered(halves(), settings, Fixed())
    assert row(Image.open(BytesIO(file))) == [0, 0, 0, 0, 250, 250, 250, 250]
    once, again = (altered(halves(), settings, random.Random(1)) for _ in range(2))
    assert once == again


def task(folder, name="image-classification"):
    for label, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        (folder / label).mkdir(parents=True)
        for number in range(5):
            halves(left=colour).save(folder / label / f"{number}.png")
    return read_task({"name": name, "train": str(folder)})


def test_a_training_reads_the_copies_after_the_pictures(tmp_path):
    made = task(tmp_path / "pictures")
    train, _, _ = made.read()
    frame = made.augmented(train, Augmentation(flip=1.0, copies=2))
    assert len(frame) == 3 * len(train)
    assert frame["label"].tolist() == train["label"].tolist() * 3
    plain, copy = (
        made.rows(frame.iloc[[i]], PictureReader(_Pictures(), 3), 0) for i in (0, len(train))
    )
    assert np.array_equal(plain["pixel_values"][0][:, ::-1], copy["pixel_values"][0])


class _Pictures:
    """An image processor that leaves pictures as they are."""

    def __call__(self, pictures, return_tensors):
        return {"pixel_values": np.stack([np.asarray(picture) for picture in pictures])}


@pytest.mark.parametrize(
    ("name", "augment", "message", "hint"),
    [
        (
            "image-classification",
            {"deletion": 0.1, "flip": 0.5},
            "recipe.augment.deletion does not fit the task image-classification",
            "leave it out; what fits is crop, rotation, flip, brightness, contrast",
        ),
        (
            "text-classification",
            {"flip": 0.5},
            "recipe.augment.flip does not fit the task text-classification",
            "leave it out; what fits is synonyms, swap, deletion, through",
        ),
        (
            "token-classification",
            {"swap": 0.5},
            "recipe.augment does not fit the task token-classification",
            "leave it out; it fits image-classification, text-classification",
        ),
    ],
)
def test_what_is_for_other_examples_is_refused(name, augment, message, hint):
    with pytest.raises(ConfigError) as caught:
        read_task({"name": name, "train": "t.csv"}).check(Recipe(augment=augment))
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"distill": {}}, "recipe.distill is about the probabilities of labels"),
        ({"r_drop": 1.0}, "recipe.r_drop is about the probabilities of labels"),
        ({"label_smoothing": 0.1}, "recipe.label_smoothing is about the probabilities of labels"),
    ],
)
def test_a_regression_has_no_labels_to_compare(part, message):
    made = read_task({"name": "text-classification", "train": "t.csv", "regression": True})
    with pytest.raises(ConfigError, match=message):
        made.check(Recipe(**part))
    made.check(Recipe(adversary="fgm"))


@pytest.mark.parametrize(
    "name", ["text-generation", "question-answering", "next-item-recommendation"]
)
def test_smoothing_is_refused_where_the_library_smooths_other_labels(name):
    made = TASKS[name].model_construct(name=name)
    with pytest.raises(ConfigError, match=f"recipe.label_smoothing does not fit the task {name}"):
        made.check(Recipe(label_smoothing=0.1))
