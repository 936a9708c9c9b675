"""Settings of the local distillation that a candidate's new weights start from."""

from pydantic import Field

from sharetune.spaces.settings import StrictModel


class LocalStart(StrictModel):
    """Local distillation before training: each group of the plan, alone, learns to give the
    unshared model's hidden states from the unshared model's hidden states."""

    local_steps: int = Field(
        80, ge=1, description="Optimiser steps that the new weights of each group learn for."
    )
    learning_rate: float = Field(
        5e-4, gt=0, description="AdamW's learning rate there; it falls to 0 along a half cosine."
    )
    tokens: int = Field(
        8192,
        ge=1,
        description="Tokens of training examples, padding included, whose hidden states are "
        "learnt from.",
    )
