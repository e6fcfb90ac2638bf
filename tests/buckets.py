"""A local S3 server with a bucket `lake`, for tests of object stores."""

import contextlib
import urllib.request

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from curate.io import filesystem

KEY, SECRET = "AKIDMADEUPFORTESTS", "made/up+secret&for%tests"


@contextlib.contextmanager
def bucket():
    """Give the options of a bucket `lake` on a server that lives as long as the context."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_TEST_KEY", KEY)
        patch.setenv("S3_TEST_SECRET", SECRET)
        found = {
            "key": "${S3_TEST_KEY}",
            "secret": "${S3_TEST_SECRET}",
            "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-west-1"},
        }
        lake_of(found).mkdir("lake")
        yield found
        s3fs.S3FileSystem.clear_instance_cache()
    urllib.request.urlopen(
        f"http://{host}:{port}/moto-api/reset", data=b""
    ).close()  # all servers share buckets
    server.stop()


def lake_of(options):
    """Return the file system of the server."""
    return filesystem.filesystem("s3://lake", options)[0]


def objects(lake, folder):
    """Return every object below a folder by name, with its bytes; hidden ones are left out."""
    lake.invalidate_cache()
    found = {path.removeprefix(f"{folder}/"): lake.cat_file(path) for path in lake.find(folder)}
    return {name: data for name, data in found.items() if not name.startswith(".")}


def no_secret_below(folder):
    """Fail if a file below a folder holds what no file may hold."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) > 5
    for path in found:
        data = path.read_bytes()
        assert SECRET.encode() not in data and KEY.encode() not in data, path
