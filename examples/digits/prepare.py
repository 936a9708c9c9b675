"""Writes scikit-learn's handwritten digits as a folder of pictures. Nothing is downloaded."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).parent


def write_pictures(folder: Path, images: np.ndarray, digits: np.ndarray) -> None:
    """``folder/<digit>/<number>.png``, each 8 x 8, with 17 shades of grey."""
    for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
        path = folder / str(digit) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(path)
    print(f"wrote {len(images)} pictures to {folder}")


if __name__ == "__main__":
    images, digits = load_digits(return_X_y=True)
    train, test, train_digits, test_digits = train_test_split(
        images.reshape(-1, 8, 8), digits, test_size=0.25, random_state=0, stratify=digits
    )
    write_pictures(HERE / "data" / "train", train, train_digits)
    write_pictures(HERE / "data" / "test", test, test_digits)
