"""Errors that a user can cause or a trial can meet; a user's carry a hint at the way out.

    SharetuneError
    |-- PlanError      a sharing plan that cannot be built
    |-- ConfigError    a study file or a space that cannot be read
    |-- DataError      training data that does not fit its task
    |-- ModelError     a checkpoint that cannot be loaded or shared
    `-- RunError       a run folder that cannot be created, resumed or read
        `-- ClusterLost  a cluster whose own processes are gone

The command line prints them as ``error: ...``, a blank line and ``hint: ...``.
"""

from sharetune.spaces.texts import printable, shortened

CONTINUE = "continue with --resume"
"""Part of hints of errors that end a search half way; the command line puts its command there."""

KEPT = f"what is finished is kept; {CONTINUE}"
"""Hint of errors that end a search half way."""

MOST_CHARACTERS = 4_000
"""Characters of an error's message, which may list many mistakes."""


class SharetuneError(ValueError):
    """A user's mistake: `message` states the rule and the value, `hint` the way out.

    It is a ``ValueError`` so that pydantic validators may raise it and every mistake in a
    file is listed at once.
    """

    def __init__(self, message: str, hint: str) -> None:
        message, hint = (shortened(printable(text), MOST_CHARACTERS) for text in (message, hint))
        super().__init__(message)
        self.message = message
        self.hint = hint

    def as_text(self) -> str:
        """Return the message and the hint as the command line prints them."""
        return f"error: {self.message}\n\nhint: {self.hint}"

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.message, self.hint)


class PlanError(SharetuneError):
    """A sharing plan that cannot be built."""


class ConfigError(SharetuneError):
    """A study file or a space that cannot be read."""


class DataError(SharetuneError):
    """Training data that does not fit its task."""


class ModelError(SharetuneError):
    """A checkpoint that cannot be loaded or shared."""


class RunError(SharetuneError):
    """A run folder that cannot be created, resumed or read."""


class ClusterLost(RunError):
    """A cluster whose own processes are gone. Ray ends this process about a minute later."""


class CandidateFault(Exception):
    """A candidate that cannot be trained: NaN, out of memory, over budget.

    Nobody's mistake: the trial ends as pruned, from which the sampler learns to stay away.
    """


class OutOfMemory(CandidateFault):
    """A candidate whose training needs more memory than the host or the GPU has."""


class StoppedAtRung(Exception):
    """A training that early stopping ended at a rung. Nobody's mistake either."""
