"""Drives a study: configuration, Optuna study, Ray Tune, command line."""
