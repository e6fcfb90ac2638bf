import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.embedding import decode_pool
from curate.embedding.decode import Preprocess
from curate.embedding.decode_pool import DecodePool
from curate.errors import EmbeddingError

PREPROCESS = Preprocess((16, 16))
LIMIT = 10_000_000
ROOT = Path(__file__).resolve().parents[2]

# Workers of the tests know images that end, delay or inspect the process that decodes them.
SABOTAGE = """
from curate.embedding import decode
real = decode.decode
def decode_(data, *args, **kwargs):
    import os, signal, sys, time
    if data == b"kill": os.kill(os.getpid(), signal.SIGKILL)
    if data == b"crash": os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"once":
        import pathlib
        mark = pathlib.Path(os.environ["CURATE_TEST_MARK"])
        if not mark.exists():
            mark.touch()
            os._exit(3)
        return decode.Decoded("ok", "second time", None, None, None)
    if data == b"hang": time.sleep(60)
    if data == b"modules": return decode.Decoded("ok", " ".join(sorted(sys.modules)), None, None, None)
    if data == b"pid": return decode.Decoded("ok", str(os.getpid()), None, None, None)
    if data == b"sigint": os.kill(os.getpid(), signal.SIGINT)
    return real(data, *args, **kwargs)
decode.decode = decode_
"""


@pytest.fixture
def sabotage(monkeypatch):
    monkeypatch.setattr(decode_pool, "_ENTRY", f"exec({SABOTAGE!r}); {decode_pool._ENTRY}")


def jpeg(seed, size=(40, 30)):
    out = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(out, "JPEG")
    return out.getvalue()


def pool(workers, **options):
    options = {"max_pixels": LIMIT, "memory_limit_bytes": 500_000_000, "timeout_s": 20} | options
    return DecodePool(PREPROCESS, workers=workers, **options)


def flat(results):
    return [
        (tag, *row[:4], None if row.array is None else row.array.tobytes())
        for tag, rows in results
        for row in rows
    ]


def batches(n=7):
    for i in range(n):
        yield i, [jpeg(i), None, b"", jpeg(i + 100, (8, 50)), b"<html>"][: i % 6]


def test_results_are_the_same_for_any_number_of_workers():
    results = []
    for workers in (0, 1, 3):
        with pool(workers) as decoders:
            results.append(flat(decoders.map(batches())))
            assert flat(decoders.map([])) == []
    assert results[0] == results[1] == results[2]
    assert len(results[0]) == sum(i % 6 for i in range(7))
    assert {row[1] for row in results[0]} == {"ok", "missing_image", "broken_image"}


def test_workers_import_nothing_heavy(sabotage):
    with pool(1) as decoders:
        [(_, [row])] = decoders.map([(0, [b"modules"])])
    modules = set(row.reason.split())
    assert {"PIL", "numpy", "curate.embedding.decode"} <= modules
    assert not modules & {"torch", "open_clip", "torchvision", "polars", "pyarrow", "pydantic", "prefect"}


def test_the_callers_main_script_is_not_run_again(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from curate.embedding.decode import Preprocess\n"
        "from curate.embedding.decode_pool import DecodePool\n"
        "print('start')\n"
        "with DecodePool(Preprocess((8, 8)), workers=2, max_pixels=100) as pool:\n"
        "    print([row.outcome for _, rows in pool.map([(0, [None, b''])]) for row in rows])\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout == "start\n['missing_image', 'broken_image']\n"
    assert done.stderr == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_only_the_row_that_kills_its_worker_pays(sabotage, workers):
    images = [jpeg(1), b"kill", jpeg(2), b"crash"]
    with pool(workers) as decoders:
        results = flat(decoders.map([(0, images), (1, [jpeg(3)]), (2, [b"kill"])]))
    outcomes = [row[1] for row in results]
    assert outcomes == ["ok", "decoder_killed", "ok", "decoder_failed", "ok", "decoder_killed"]
    assert results[1][2] == "the decoder was ended by SIGKILL"
    assert results[3][2] == "the decoder was ended by SIGSEGV"
    with pool(0) as decoders:
        healthy = flat(decoders.map([(0, [jpeg(1), jpeg(2)])]))
    assert [results[0], results[2]] == healthy


def test_a_row_that_was_only_unlucky_is_decoded(sabotage, tmp_path, monkeypatch):
    monkeypatch.setenv("CURATE_TEST_MARK", str(tmp_path / "mark"))
    with pool(1) as decoders:
        results = flat(decoders.map([(0, [jpeg(1), b"once", jpeg(2)])]))
    assert [row[1] for row in results] == ["ok"] * 3
    assert results[1][2] == "second time"


def test_a_row_that_takes_too_long_is_given_up(sabotage):
    start = time.monotonic()
    with pool(1, timeout_s=0.5) as decoders:
        results = flat(decoders.map([(0, [jpeg(1), b"hang", jpeg(2)])]))
    assert [row[1] for row in results] == ["ok", "decode_timeout", "ok"]
    assert results[1][2] == "not decoded after 0.5 s"
    assert time.monotonic() - start < 15


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_a_bomb_fails_in_the_worker_alone():
    out = io.BytesIO()
    Image.new("L", (9_000, 9_000)).save(out, "PNG")
    images = [jpeg(1), out.getvalue(), jpeg(2)]
    with pool(1, max_pixels=10**9, memory_limit_bytes=60_000_000) as decoders:
        results = flat(decoders.map([(0, images)]))
    assert [row[1] for row in results] == ["ok", "decoder_failed", "ok"]
    assert results[1][2] == "needs more memory than the 60 MB a decoder may use"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_a_limit_of_the_machine_is_no_verdict_on_the_row(monkeypatch):
    lower = "import resource as r; r.setrlimit(r.RLIMIT_AS, (8 * 10**8, 8 * 10**8)); "
    monkeypatch.setattr(decode_pool, "_ENTRY", lower + decode_pool._ENTRY)
    header = struct.pack("<IIIHHIIIIII", 40, 20_000, 20_000, 1, 24, 0, 0, 0, 0, 0, 0)
    hungry = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header
    with pool(1, max_pixels=10**9, memory_limit_bytes=10**10) as decoders:
        results = flat(decoders.map([(0, [hungry, jpeg(2)])]))
    assert [row[1] for row in results] == ["decoder_killed", "ok"]


def large(seed):
    """Return a BMP of 3 MB, which takes 11 MB to decode."""
    out = io.BytesIO()
    Image.fromarray(np.full((1000, 1000, 3), seed, np.uint8)).save(out, "BMP")
    return out.getvalue()


@pytest.mark.parametrize("in_flight", [None, 1, 7_000_000, 10**9])
def test_results_do_not_depend_on_what_is_in_flight(in_flight, monkeypatch):
    monkeypatch.setattr(decode_pool, "_ENTRY", f"{decode_pool._ENTRY.replace('serve(fd)', SMALL)}")
    images = [[large(1), None, jpeg(1)], [large(2), large(3)], [b""], [jpeg(2), large(4)]]
    with pool(2, in_flight_bytes=in_flight) as decoders, pool(0) as here:
        assert flat(decoders.map(enumerate(images))) == flat(here.map(enumerate(images)))


SMALL = "import curate.embedding.decode_pool as p; p._SMALL_BYTES = 1000; p.serve(fd)"


def test_encoded_images_in_flight_are_counted_in_bytes():
    drawn = []

    def source():
        for i in range(6):
            drawn.append(i)
            yield i, [large(i)]

    with pool(3, in_flight_bytes=6_500_000) as decoders:
        results = decoders.map(source())
        assert next(results)[0] == 0
        assert len(drawn) == 3, "two in flight, and one that waits for room"
        assert [tag for tag, _ in results] == [1, 2, 3, 4, 5]


def test_decoding_waits_for_room_unless_nobody_else_has_any():
    room, taken = decode_pool._Room(100), []
    room.take(150)
    waiting = threading.Thread(target=lambda: (room.take(60), taken.append(60)))
    waiting.start()
    time.sleep(0.05)
    assert taken == []
    room.give_back(150)
    waiting.join(5)
    assert taken == [60]
    room.take(40)
    room.close()
    with pytest.raises(EmbeddingError, match="closed"):
        room.take(1)


def test_a_worker_that_the_system_refuses_is_one_line(monkeypatch):
    def refused(*args, **kwargs):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(decode_pool.subprocess, "Popen", refused)
    with pytest.raises(
        EmbeddingError, match="cannot be started: Resource temporarily unavailable; raise the"
    ):
        pool(2)


def test_few_batches_are_in_flight():
    drawn = []

    def source():
        for i in range(20):
            drawn.append(i)
            yield i, [jpeg(i)]

    with pool(2) as decoders:
        results = decoders.map(source())
        assert next(results)[0] == 0
        time.sleep(0.3)
        assert len(drawn) <= 4
        assert [tag for tag, _ in results] == list(range(1, 20))


def test_an_error_in_the_source_gets_out_and_the_pool_goes_on():
    def source():
        yield 0, [jpeg(0)]
        raise RuntimeError("the source broke")

    with pool(1) as decoders:
        with pytest.raises(RuntimeError, match="the source broke"):
            list(decoders.map(source()))
        assert [tag for tag, _ in decoders.map([(1, [jpeg(1)])])] == [1]


@pytest.fixture
def interrupt_soon():
    """Raise KeyboardInterrupt in the main thread after a moment, as Ctrl-C does."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.3)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_interrupts_reach_the_parent_only_and_close_is_quick(sabotage, interrupt_soon):
    with pool(2) as decoders:
        assert [row[1] for row in flat(decoders.map([(0, [b"sigint", jpeg(1)])]))] == ["broken_image", "ok"]
        pids = {row[2] for row in flat(decoders.map((i, [b"pid"]) for i in range(20)))}
        results = decoders.map((i, [b"hang"]) for i in range(4))
        with pytest.raises(KeyboardInterrupt):
            interrupt_soon()
            next(results)
        start = time.monotonic()
    assert time.monotonic() - start < 1
    for pid in map(int, pids):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_when_their_parent_is_killed(tmp_path):
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from curate.embedding import decode_pool\n"
        f"decode_pool._ENTRY = 'exec(' + repr({SABOTAGE!r}) + '); ' + decode_pool._ENTRY\n"
        "from curate.embedding.decode import Preprocess\n"
        "pool = decode_pool.DecodePool(Preprocess((8, 8)), workers=2, max_pixels=100)\n"
        "pids = {r.reason for _, rows in pool.map((i, [b'pid']) for i in range(30)) for r in rows}\n"
        "print(*pids, flush=True)\n"
        "list(pool.map([(0, [b'hang'])]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids
    time.sleep(0.2)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, pids)), "one idle, one in the middle of an image"


def _alive(pid):
    """Whether a process runs (a container without an init keeps dead ones as zombies)."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(done.stdout.strip()) and not done.stdout.strip().startswith("Z")


def test_a_worker_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(decode_pool, "_ENTRY", "raise SystemExit(7)")
    with pool(1) as decoders, pytest.raises(EmbeddingError, match="a decode worker ended while starting"):
        list(decoders.map([(0, [jpeg(0)])]))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        pool(-1)
