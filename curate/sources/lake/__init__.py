"""Tables that are more than their data files: Delta, Iceberg, Hudi, Lance."""
