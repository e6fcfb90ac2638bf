"""Near-duplicates of a finished run: what dedup found, what other thresholds would drop, pairs; nothing is written."""
