"""How work is done, whatever the work: what a stage gets, rows to buckets and back, engines."""
