"""Train one candidate with the library's Trainer: losses, teachers, rungs, checkpoints."""
