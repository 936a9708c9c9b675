"""Read a run folder: where its study is kept, what is stored of it, and the table of its trials."""
