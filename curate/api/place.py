"""Where a run is, for the methods of `Run`."""

from curate.runs.run import StoredRun

__all__ = ["PlacedRun"]


class PlacedRun(StoredRun):
    """A run that says where it is."""

    @property
    def path(self) -> str:
        """The run folder, or its URL."""
        return self.folder.where
