"""Alter training texts; `sharetune.spaces.augmentation` documents the settings."""

import random
import re
from collections.abc import Callable, Sequence

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from sharetune.spaces.augmentation import WORDS, Augmentation
from sharetune.spaces.registry import Registry
from sharetune.trainers.data.wordnet import database, synonyms
from sharetune.trainers.models.pretrained import from_library

BATCH_SIZE = 16
"""Texts translated at once; 16 fit the memory of a small GPU."""

SEED = 0
"""Seed of all alterations, fixed so that every candidate trains on the same texts."""

WORD = re.compile(r"\w+")
"""The part of a word that is looked up, without punctuation."""

Alteration = Callable[[list[str], float, Augmentation, random.Random], list[str]]
"""``(words, fraction, settings, random) -> words``"""

ALTERATIONS: Registry[Alteration] = Registry("alteration")
"""Alterations of words, by the name of the setting that gives their fraction."""


@ALTERATIONS.register("deletion")
def delete(words: list[str], rate: float, settings: Augmentation, rng: random.Random) -> list[str]:
    """deletes every word with probability `deletion`; at least one word stays"""
    kept = [word for word in words if rng.random() >= rate]
    return kept or [rng.choice(words)]


@ALTERATIONS.register("swap")
def swap(words: list[str], rate: float, settings: Augmentation, rng: random.Random) -> list[str]:
    """swaps words in random pairs, the fraction `swap` of all words"""
    words = list(words)
    for _ in range(round(rate * len(words) / 2)):
        i, j = rng.randrange(len(words)), rng.randrange(len(words))
        words[i], words[j] = words[j], words[i]
    return words


@ALTERATIONS.register("synonyms")
def replace(words: list[str], rate: float, settings: Augmentation, rng: random.Random) -> list[str]:
    """replaces the fraction `synonyms` of the words by synonyms"""
    known = synonyms(database(settings.wordnet))
    words = list(words)
    cores = [WORD.search(word) for word in words]
    able = [i for i, core in enumerate(cores) if core and core[0].lower() in known]
    for i in rng.sample(able, min(len(able), round(rate * len(words)))):
        core = cores[i]
        assert core is not None
        other = rng.choice(known[core[0].lower()])
        cased = other.capitalize() if core[0][0].isupper() else other
        words[i] = words[i][: core.start()] + cased + words[i][core.end() :]
    return words


def copies(texts: Sequence[str], settings: Augmentation) -> list[list[str]]:
    """Return `settings.copies` lists of altered texts, each in the order of `texts`."""
    rng = random.Random(SEED)
    for model in settings.through or ():
        texts = translated(texts, model)
    return [[_alter(text, settings, rng) for text in texts] for _ in range(settings.copies)]


def translated(texts: Sequence[str], model: str) -> list[str]:
    """Return `texts` translated greedily by `model`; texts longer than its input are cut."""
    tokenizer = from_library(AutoTokenizer, model)
    translator = from_library(AutoModelForSeq2SeqLM, model).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    translator.to(device)
    found: list[str] = []
    for start in range(0, len(texts), BATCH_SIZE):
        batch = tokenizer(
            list(texts[start : start + BATCH_SIZE]),
            return_tensors="pt",
            padding=True,
            truncation=True,
        ).to(device)
        with torch.no_grad():
            tokens = translator.generate(**batch, num_beams=1, do_sample=False)
        found += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return found


def check_augmentation(settings: Augmentation) -> None:
    """Raise :class:`SharetuneError` if a database or a translation model is missing."""
    if settings.synonyms:
        database(settings.wordnet)
    for model in settings.through or ():
        from_library(AutoConfig, model)


def _alter(text: str, settings: Augmentation, rng: random.Random) -> str:
    words = text.split()
    for name in WORDS:
        rate = getattr(settings, name)
        if rate and words:
            words = ALTERATIONS[name](words, rate, settings, rng)
    return " ".join(words) or text
