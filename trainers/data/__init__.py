"""Read tables, pictures and sound, and turn them into rows that are cached on disk."""
