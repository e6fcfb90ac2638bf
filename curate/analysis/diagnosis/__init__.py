"""What is wrong with vectors and scores: pure functions, and what of them a run shows."""
