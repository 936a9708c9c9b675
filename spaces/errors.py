"""The errors a user can cause, each with the way out.

    SharetuneError
    |-- PlanError      a sharing plan that cannot be built
    |-- ConfigError    a study file or a space that cannot be read
    |-- DataError      training data that does not fit its task
    |-- ModelError     a checkpoint that cannot be loaded or shared
    `-- RunError       a run folder that cannot be created, resumed or read

The command line prints them as ``error: ...``, a blank line and ``hint: ...``.
"""


class SharetuneError(ValueError):
    """A user's mistake: `message` names the rule and the value, `hint` the way out.

    It is a ``ValueError`` so that pydantic validators may raise it and every mistake in a
    file is listed at once.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

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


class CandidateFault(Exception):
    """A candidate that cannot be trained: NaN, out of memory, over budget.

    Nobody's mistake: the sampler is told, so that it learns to stay away.
    """


class OutOfMemory(CandidateFault):
    """A candidate whose training needs more memory than there is, of the host or the GPU."""


class StoppedAtRung(Exception):
    """A training that the search stopped on its way. Nobody's mistake either."""
