"""Search from Python: a live model and data, and a finished run as an object."""
