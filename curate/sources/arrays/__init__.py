"""Arrays beside tables, or instead of them: npy files, clip-retrieval folders, DataComp metadata."""
