"""What a run says of itself, read part by part: for `inspect`, for notebooks, for SQL. Nothing is computed anew."""
