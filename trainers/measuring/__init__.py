"""Measure a model: parameters, bytes, FLOPs and latency."""
