"""Make a trained model smaller: fewer units, zeros, 8-bit numbers."""
