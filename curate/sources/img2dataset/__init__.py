"""What img2dataset writes: tars, Parquet or loose files, with failed downloads as rows."""
