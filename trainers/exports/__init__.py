"""Write a shared model for other programs to load, one file a format, and compare its logits."""
