"""The run folder: paths and markers, dated runs, logs, undo."""
