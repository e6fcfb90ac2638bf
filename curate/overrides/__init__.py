"""What people decided about rows of a run, which the pipeline respects: a journal of it, and what holds now."""
