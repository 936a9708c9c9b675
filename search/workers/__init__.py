"""Run jobs: in this process, or on Ray Tune workers that are watched and may work in groups."""
