"""Build the bank and the readers of each form, one file a form."""
