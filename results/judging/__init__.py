"""Judge a study by its numbers: front, intervals, finalists, choices, warnings, summary."""
