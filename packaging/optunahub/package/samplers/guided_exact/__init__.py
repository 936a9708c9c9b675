"""The guided sampler of ShareTune as a package of OptunaHub."""

from sharetune.search.samplers.guided_sampler import GuidedSampler

__all__ = ["GuidedSampler"]
