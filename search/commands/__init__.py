"""The command line: one file for each command that does more than call a function."""
