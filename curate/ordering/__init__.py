"""The order of rows, and where it is cut: what filtering and selection share, in memory and over many parts."""
