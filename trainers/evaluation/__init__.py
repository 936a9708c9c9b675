"""Train and measure one candidate: all that happens to a trial on a worker."""
