"""How well a pair fits by a filter that was trained on a small set of good pairs (`curate train-filter`)."""
