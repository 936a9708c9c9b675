"""Altered texts: what changes, what stays, and where synonyms come from."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BartConfig

from sharetune.spaces import Candidate, Recipe
from sharetune.spaces.augmentation import Augmentation
from sharetune.spaces.errors import ConfigError
from sharetune.trainers.data.text_augmentation import (
    ALTERATIONS,
    check_augmentation,
    copies,
    translated,
)
from sharetune.trainers.data.wordnet import DATABASE_FOLDERS, database, synonyms
from tests.checkpoint import write_checkpoint
from tests.families import SIDES, without
from tests.trainers.conftest import candidate, evaluated

TEXT = "one two three four five six seven eight nine ten"
# two synsets and the licence, as in WordNet 3.0's data.noun
DATA = """\
  1 This software and database is being provided to you, the LICENSEE, by
02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a member
09886220 18 n 03 cad 0 dog 1 hound 1 001 @ 10710632 n 0000 | someone who is reprehensible
"""


@pytest.fixture
def wordnet(tmp_path):
    (tmp_path / "data.noun").write_text(DATA)
    return str(tmp_path)


def altered(name, rate, text=TEXT, **settings):
    words = ALTERATIONS[name](text.split(), rate, Augmentation(**settings), random.Random(0))
    return " ".join(words)


def test_words_are_left_out_at_their_rate():
    rng, settings = random.Random(0), Augmentation()
    kept = [len(ALTERATIONS["deletion"](TEXT.split(), 0.3, settings, rng)) for _ in range(500)]
    assert 6.8 < sum(kept) / 500 < 7.2
    assert altered("deletion", 0.99, "alone") == "alone"


def test_swapped_words_are_all_there():
    swapped = altered("swap", 0.4)
    assert swapped != TEXT
    assert sorted(swapped.split()) == sorted(TEXT.split())


def test_synonyms_are_those_of_all_senses(wordnet):
    assert synonyms(Path(wordnet)) == {
        "dog": ("cad", "hound"),
        "cad": ("dog", "hound"),
        "hound": ("cad", "dog"),
    }
    found = altered("synonyms", 1.0, 'A "Dog", said the hound.', wordnet=wordnet)
    first, second = found.split()[1], found.split()[-1]
    assert first in ('"Cad",', '"Hound",')
    assert second in ("cad.", "dog.")


@pytest.mark.slow
@pytest.mark.skipif(not Path(DATABASE_FOLDERS[0]).exists(), reason="wordnet-base is not installed")
def test_the_real_wordnet():
    known = synonyms(database(None))
    assert len(known) > 40_000
    assert {"auto", "automobile"} <= set(known["car"])


def test_the_same_copies_every_time():
    settings = Augmentation(deletion=0.2, swap=0.2, copies=2)
    first, second = copies([TEXT, TEXT], settings)
    assert first != second
    assert copies([TEXT, TEXT], settings) == [first, second]


def translator(folder, seed):
    """A tiny seq2seq model that writes words of the tiny tokenizer, if no sensible ones."""
    write_checkpoint(folder)
    torch.manual_seed(seed)
    config = BartConfig(
        **without(SIDES, "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"),
        vocab_size=18,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        max_position_embeddings=40,
        init_std=1.0,
    )
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(folder)
    return str(folder)


def test_a_text_goes_there_and_back(tmp_path):
    there, back = translator(tmp_path / "a", 1), translator(tmp_path / "b", 2)
    texts = ["bread soup apple", "wave ship"]
    abroad = translated(texts, there)
    assert len(abroad) == 2
    assert abroad[0] != abroad[1]
    settings = Augmentation(through=(there, back))
    check_augmentation(settings)
    assert copies(texts, settings) == [[" ".join(t.split()) for t in translated(abroad, back)]]


def test_a_training_reads_the_copies(evaluator, tmp_path):
    augmented = candidate(evaluator, augment=Augmentation(swap=0.5, copies=2), steps=2)
    split, test = evaluator.task.splits(12, augmented.recipe.augment)
    assert (len(split.labels), len(test.labels)) == (270, 30)
    assert split.labels[:90] == split.labels[90:180]
    plain, _ = evaluator.task.splits(12, None)
    assert (len(plain.labels), plain.identity != split.identity) == (90, True)
    assert len(evaluated(evaluator, augmented, tmp_path).curve) == 2


def test_what_is_missing_is_told():
    with pytest.raises(ConfigError, match="no WordNet database in /nowhere") as caught:
        check_augmentation(Augmentation(synonyms=0.1, wordnet="/nowhere"))
    assert "wordnet-base" in caught.value.hint
    with pytest.raises(ValueError, match="no such folder: /nowhere"):
        check_augmentation(Augmentation(through=("/nowhere", "/nowhere")))


def test_augmentation_without_effect_is_none():
    assert Candidate(recipe=Recipe(augment={"copies": 3})).bound({}) == Candidate().bound({})
