"""A run at a URL: an object store holds the run, a folder of this machine is its working copy.

Stages work on paths. Where these lie in a working copy, every finished file goes to its final name at the URL in one
PUT before it gets its name here (`store`). A file that is only at the URL has a placeholder of its size here, and is
fetched when it is read (`cache`); one that was not read for a while is evicted (`working_copy`). One writer at a time
holds the URL (`remote_lock`). The URL is right: `RemoteStore.refresh` makes the copy follow it.
"""
