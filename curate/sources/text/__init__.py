"""Lines of text: JSON lines, CSV, TSV."""
