"""Define what a study trains for: data, model head, loss and metrics, one file a task."""
