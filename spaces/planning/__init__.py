"""Find plans from the effects of single edits, before anything is trained. Needs no torch."""
