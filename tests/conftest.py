"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

# Threads of torch and NumPy wait without computing, here and in processes that tests start: test files run at the same
# time, and threads that wait in a loop take the processors from each other. Read when the libraries are loaded;
# results do not depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")


@pytest.fixture(scope="session", autouse=True)
def no_power_cut():
    """Let nothing wait for the disk: that files outlive a power cut cannot be tested here, and costs a lot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_settings_of_prefect(tmp_path_factory):
    """Take away the user's server, profiles and settings of Prefect, before it is imported and reads them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("home-of-prefect")))
        patch.setenv("DO_NOT_TRACK", "1")
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data sets (see its README); skips where it is not there."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("CURATE_SHARED_DATA") or default)
    if not folder.is_dir():
        pytest.skip("no shared data: set CURATE_SHARED_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="module")
def options():
    """The options of a bucket `lake`, on a server that lives as long as the tests of one file."""
    from buckets import bucket

    with bucket() as found:
        yield found


@pytest.fixture(scope="module")
def lake(options):
    """The file system of that bucket."""
    from buckets import lake_of

    return lake_of(options)


@pytest.fixture(scope="module")
def decoding_here():
    """Decode images in this process: the workers that guard a run are tested in tests/embedding/test_decode_pool.py."""
    from curate.embedding.decode_pool import DecodePool

    made = DecodePool.__init__

    def here(self, preprocess, **settings):
        made(self, preprocess, **{**settings, "workers": 0})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecodePool, "__init__", here)
        yield
