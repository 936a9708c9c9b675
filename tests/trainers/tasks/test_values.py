"""Metrics of fixed predictions are what the reference libraries print for them."""

import json

import pytest
import torch

from sharetune.trainers.tasks.base import DataFacts, read_task
from sharetune.trainers.tasks.metrics import entities, ranking_gains, span_f1
from sharetune.trainers.tasks.prediction import Losses
from sharetune.trainers.tasks.question_answering import best_answer, words_f1
from sharetune.trainers.tasks.recommendation import ranks


def task(name, **keys):
    return read_task({"name": name, "train": "train.csv", **keys})


def test_bleu_and_chrf():
    # sacrebleu 2.6.0 on the first reference of its README's example:
    # corpus_bleu(...).score and corpus_chrf(...).score
    told = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    wanted = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    metrics = task("translation").score((told, Losses(1.5, None, [9])), wanted, DataFacts()).metrics
    assert metrics == {
        "bleu": pytest.approx(45.0675, abs=1e-4),
        "chrf": pytest.approx(50.0431, abs=1e-4),
        "eval_loss": 1.5,
    }


def test_accuracy_macro_f1_and_loss():
    # the example of sklearn.metrics.f1_score; three logits of 2, 0, 0: ln(e^2 + 2) - 2 where right
    # and ln(e^2 + 2) where wrong, four times of six
    logits = 2 * torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 0, 0, 1]), 3).float()
    found = task("text-classification").score(logits, [0, 1, 2, 0, 1, 2], DataFacts(tuple("abc")))
    metrics = found.metrics
    assert metrics["accuracy"] == pytest.approx(2 / 6)
    assert metrics["macro_f1"] == pytest.approx(0.266667, abs=1e-6)
    assert metrics["eval_loss"] == pytest.approx(1.572873, abs=1e-5)
    assert found.confusion == [[2, 0, 0], [1, 0, 1], [0, 2, 0]]


def test_perplexity():
    # a model that finds 20 tokens equally likely has ln 20 nats a token
    metrics = task("text-generation").score(Losses(2.995732, None, [9]), [], DataFacts()).metrics
    assert metrics == {"perplexity": pytest.approx(20.0, abs=1e-4), "eval_loss": 2.995732}


def test_perplexity_by_byte():
    # blocks of 3 and 5 tokens predicted that stand for 12 and 20 bytes: each token for 4 of them,
    # so ln 16 nats a token are ln 2 a byte
    losses = Losses(2.772589, [8.0, 14.180712], [3, 5])
    found = task("text-generation").score(losses, [[3, 12], [5, 20]], DataFacts())
    assert found.part_sums == {
        "nats": [8.0, 14.1807],
        "predictions": [3, 5],
        "bytes": [12, 20],
    }
    assert found.metrics == {
        "perplexity": pytest.approx(16.0, abs=1e-4),
        "byte_perplexity": pytest.approx(2.0, abs=1e-6),
        "bits_per_byte": pytest.approx(1.0, abs=1e-6),
        "eval_loss": 2.772589,
    }


def test_exact_match_and_f1_of_answers():
    # of SQuAD's metric: the best of all accepted texts, without articles, case, punctuation
    def row(context, spans, *accepted):
        return json.dumps({"context": context, "offsets": spans, "texts": accepted})

    def at(place, tokens):
        return 9.0 * torch.nn.functional.one_hot(torch.tensor(place), tokens).float()

    labels = [
        row("In the Tower.", [(0, 0), (0, 2), (3, 6), (7, 13)], "a hall", "tower"),
        row("Ada Lovelace wrote", [(0, 0), (0, 3), (4, 12), (13, 18)], "Lovelace wrote"),
    ]
    told = [(at(2, 4), at(3, 4)), (at(1, 4), at(2, 4))]  # "the Tower." and "Ada Lovelace"
    metrics = task("question-answering").score(told, labels, DataFacts()).metrics
    assert metrics == {"answer_f1": (1 + 0.5) / 2, "exact_match": 0.5}


def test_matthews():
    # the example of sklearn.metrics.matthews_corrcoef
    logits = torch.nn.functional.one_hot(torch.tensor([1, 0, 1, 1]), 2).float()
    found = task("text-classification").score(logits, [1, 1, 1, 0], DataFacts(("a", "b")))
    assert found.metrics["matthews"] == pytest.approx(-0.3333, abs=1e-4)


def test_spearman():
    # the example of scipy.stats.spearmanr
    told = torch.tensor([[5.0], [6.0], [7.0], [8.0], [7.0]])
    regression = task("text-classification", regression=True)
    metrics = regression.score(told, [1, 2, 3, 4, 5], DataFacts()).metrics
    assert metrics["spearman"] == pytest.approx(0.8207826816681233)
    assert metrics["mean_squared_error"] == pytest.approx((16 + 16 + 16 + 16 + 4) / 5)


def test_a_model_that_says_one_number_has_no_rank_correlation():
    regression = task("text-classification", regression=True)
    assert regression.score(torch.zeros(3, 1), [1, 2, 3], DataFacts()).metrics["spearman"] == 0


def words(tagged, read=None):
    """The truth of texts of which the first words were `read`, all of them without a number."""
    return [{"tags": tags, "words": [*range(len(tags))][:read]} for tags in tagged]


def test_a_word_without_a_token_counts_as_o_and_moves_no_other():
    truth = [{"tags": ["O", "B-X", "I-X", "O"], "words": [0, 2, 3]}]
    facts = DataFacts(("O", "B-X", "I-X"))
    found = task("token-classification").score([["O", "I-X", "O"]], truth, facts)
    assert found.metrics["accuracy"] == 0.75
    assert found.confusion == [[2, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_entity_f1():
    # the example of seqeval's README
    wanted = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    told = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    assert span_f1(told, wanted) == 0.5
    labels = DataFacts(("O", "B-MISC", "B-PER", "I-MISC", "I-PER"))
    found = task("token-classification").score(told, words(wanted), labels)
    assert found.metrics == {
        "entity_f1": 0.5,
        "accuracy": 0.8,
    }  # 2 of 10 words differ: B for O, I for B
    assert found.confusion == [
        [4, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 2, 0],
        [0, 0, 0, 0, 1],
    ]
    assert found.per_class["I-MISC"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "support": 2,
    }
    # tags that are no entities have no O, which stands for what was cut off
    nouns = task("token-classification").score(
        [["N"]], words([["N", "V"]], 1), DataFacts(("N", "V"))
    )
    assert nouns.confusion == [[1, 0], [0, 0]]
    # of a text that was cut off after its second word
    read = [words(wanted[:1], 2)[0], words(wanted[1:])[0]]
    cut = task("token-classification").score([["O", "O"], told[1]], read, labels).metrics
    assert cut["entity_f1"] == pytest.approx(2 / 3)  # one right of one told and two true


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-A B-A", {("A", 0, 0), ("A", 1, 1)}),
        ("I-A I-A O I-B", {("A", 0, 1), ("B", 3, 3)}),
        ("B-A I-B", {("A", 0, 0), ("B", 1, 1)}),
        ("NOUN NOUN VERB", {("NOUN", 0, 1), ("VERB", 2, 2)}),
    ],
)
def test_entities(tags, found):
    assert entities(tags.split()) == found


@pytest.mark.parametrize(
    ("told", "wanted", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in the tower", "eiffel tower", 0.5),  # one word of two and of two
        ("", "tower", 0.0),
    ],
)
def test_f1_of_answers(told, wanted, f1):
    assert words_f1(told, wanted) == f1


def test_the_best_answer_starts_before_it_ends():
    offsets = [(0, 0), (0, 4), (5, 9), (10, 13)]
    starts, ends = torch.tensor([9.0, 0, 1, 3]), torch.tensor([9.0, 5, 4, 0])
    # of the sums where start <= end, word one alone has 5 and word two alone has 5 too; one to
    # two has 4; outside of the context, 9 counts for nothing
    assert best_answer(starts, ends, offsets, "Some text end") == "Some"
    assert (
        best_answer(starts, ends + torch.tensor([0, 0, 3, 0]), offsets, "Some text end") == "text"
    )


def test_word_and_character_error_rates():
    # the example of jiwer's README, by jiwer 4.0.0: two words of six and 11
    # letters of 30 are wrong
    wanted, told = ["hello world", "i like monty python"], ["hello duck", "i like python"]
    metrics = task("automatic-speech-recognition").score(told, wanted, DataFacts()).metrics
    assert metrics == {
        "word_error_rate": pytest.approx(1 / 3),
        "character_error_rate": pytest.approx(11 / 30),
    }


def test_hit_rate_and_ndcg_at_10():
    # ranks 1, 3 and 11: gains 1, 1 / log2(4) and none
    hits, gains = ranking_gains(torch.tensor([1, 3, 11]))
    assert (hits.tolist(), gains.tolist()) == ([1, 1, 0], [1, 0.5, 0])


def test_items_of_the_past_are_not_ranked():
    logits = torch.tensor([[9.0, 3.0, 2.0, 1.0], [9.0, 1.0, 1.0, 0.0]])
    labels = [{"next": 3, "past": [1]}, {"next": 1, "past": []}]
    # only item 2 is above 3, for 0 is padding and 1 is known; 1 and 2 are equal, half a rank
    assert ranks(logits, labels).tolist() == [2.0, 1.5]
