"""Reach into private parts of Ray and Optuna, for the versions that are known to have them."""
