"""Read a run folder: the location of its study, the stored attributes, the table of trials."""
