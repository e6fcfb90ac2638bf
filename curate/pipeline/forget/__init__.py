"""Taking samples out of a run for good: rows, vectors, pictures, shards, exports, logs; and looking whether anything is left."""
