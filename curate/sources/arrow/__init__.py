"""Tables in files of blocks that Arrow reads: IPC (Arrow, Feather, what datasets saves) and ORC."""
