"""Which samples are kept: one file per method, with its settings, its rule and what `explain` says of a row."""
