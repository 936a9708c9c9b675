"""Write a shared model for others to load, one file a format, compared before it counts."""
