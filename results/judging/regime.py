"""Describe the findings that a study of this kind can be expected to have, and why."""

from sharetune.results.reading.study import StudyRecord

PRETRAINED = "pretrained"
"""Key of a study's model: whether trials start from a checkpoint. Older studies do not have it."""

EXPECTED = {
    True: (
        "What to expect: this model is pretrained, and each of its layers has learned something of "
        "its own. A plan that removes neurons and heads keeps the rest as it was trained; a plan "
        "that shares must first make unlike layers one, which a short training does not make "
        "good. So expect narrowed layers in front, then dropped and merged ones, and sharing only "
        "where size counts and time does not."
    ),
    False: (
        "What to expect: this model is trained from scratch, so layers that share lose nothing "
        "that they knew. At the same size, tied layers keep the depth that a smaller model gives "
        "up, and take as long as the unshared one. So expect sharing in front at the smallest "
        "sizes, where depth pays and the number of steps is fixed; early in a training models with "
        "fewer layers are ahead, because they learn sooner. For the same compute a smaller model "
        "can train longer, and was then as good or better where that was measured."
    ),
}
"""Paragraphs by whether the model is pretrained; docs/when-to-share.md has the figures."""


def expectation(study: StudyRecord) -> str:
    """Return one paragraph for the study's kind of model; empty where the study does not say."""
    pretrained = study.model.get(PRETRAINED)
    return EXPECTED[pretrained] if isinstance(pretrained, bool) else ""
