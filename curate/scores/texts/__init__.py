"""What scores by texts and by captions share: vectors of texts by the run's own model, and entries found in captions."""
