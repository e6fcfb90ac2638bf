"""The Python API: the verbs and `Run`, over the same functions as the command line."""
