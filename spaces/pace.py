"""How long trainings take and how much memory they need, measured before a study's first trial."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Pace:
    """Seconds and bytes of training the unshared model by a study's recipe, on two batches.

    `load_s` seconds to load the model, `step_s` seconds of an optimiser step, `judge_s` seconds to
    measure one example, and `memory`, the bytes that the process, or its GPU, held at most, of
    which `held` are the same for batches of any size. `gpus` GPUs of `gpu_memory` bytes each are
    what trials can run on; none where they run on processors. A training has `examples`, and is
    measured on `judged`, as the model reads them: texts cut into blocks are as many as the blocks.
    """

    load_s: float
    step_s: float
    judge_s: float
    memory: int
    held: int = 0
    gpus: int = 0
    gpu_memory: int = 0
    examples: int = 0
    judged: int = 0

    def of_batch(self, share: float) -> "Pace":
        """Return the pace of batches of `share` (above 0) times the examples."""
        varying = max(0, self.memory - self.held)
        memory = self.memory - round((1 - share) * varying)
        return replace(self, step_s=self.step_s * share, memory=memory)

    def measured_on(self, share: float) -> "Pace":
        """Return the pace where only a `share` (0..1) of what is held out is, and the rest trains.

        One example at least is held out.
        """
        judged = max(1, round(share * self.judged))
        return replace(self, judged=judged, examples=self.examples + self.judged - judged)

    def trial_s(self, steps: int) -> float:
        """Return the seconds of an unshared trial of this number of steps."""
        return self.step_s * steps + self.besides_s

    @property
    def besides_s(self) -> float:
        """Return the seconds of a trial without its steps.

        A trained model is saved in about the time that one is loaded.
        """
        return 2 * self.load_s + self.judge_s * self.judged
