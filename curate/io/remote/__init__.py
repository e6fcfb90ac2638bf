"""The home of a run at a URL: an object store holds the run, a folder of this machine is its working copy.

Stages work on paths. Where these lie in a working copy, every finished file goes to its final name at the URL in
one PUT before it takes its place here (`store`); a file that is only there stands here as an empty place of its
size, and is fetched when it is read (`copy`); what was not read for a while makes room (`room`). One writer at a
time holds the URL (`lock`). The URL says what is true: `refresh` makes the copy follow it.
"""
