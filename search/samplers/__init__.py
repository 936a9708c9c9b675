"""Propose the next candidate: Optuna's samplers in memory, and the guided sampler."""
