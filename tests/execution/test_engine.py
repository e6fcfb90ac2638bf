import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from curate.errors import CurateError
from curate.execution.engines import local
from curate.execution.engines.local import LocalEngine
from curate.process import THREAD_LIMITS, cpu_count

TESTS = Path(__file__).resolve().parent


def square(x):
    return x * x


def slow_square(x):
    time.sleep(0.02 * (5 - x % 5))
    return x * x


def refuse_three(x):
    if x == 3:
        raise CurateError(f"item {x}")
    return x


def die(x):
    if x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def limits(x):
    return os.getpid(), {name: os.environ.get(name) for name in THREAD_LIMITS}


def hang(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(60)


@pytest.fixture(scope="module")
def two():
    with LocalEngine(2) as engine:
        yield engine


def gone(pid, within=5.0):
    """Whether a process ends within some seconds."""
    try:
        process = psutil.Process(pid)
        end = time.monotonic() + within
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
    except psutil.NoSuchProcess:
        pass
    return True


def test_results_come_in_order_from_other_processes(two):
    assert list(two.map(slow_square, range(11))) == [x * x for x in range(11)]
    assert list(two.map(square, [])) == []
    found = list(two.map(limits, range(8)))
    pids = {pid for pid, _ in found}
    assert os.getpid() not in pids and len(pids) <= 2
    assert all(set(limit.values()) == {str(max(1, cpu_count() // 2))} for _, limit in found)
    assert {name: os.environ.get(name) for name in THREAD_LIMITS} == limits(0)[1]


def test_items_are_taken_as_they_are_needed(two):
    taken = []

    def items():
        for x in range(100):
            taken.append(x)
            yield x

    results = two.map(square, items())
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) <= 3 + 2 * two.workers


@pytest.mark.parametrize("parallel", [True, False])
def test_errors_come_through_and_the_engine_goes_on(parallel):
    with LocalEngine(2 if parallel else 1) as engine:
        with pytest.raises(CurateError, match="item 3"):
            list(engine.map(refuse_three, range(6)))
        assert list(engine.map(square, range(3), parallel=False)) == [0, 1, 4]


def test_a_worker_that_dies_is_an_error_that_says_what_to_do():
    with LocalEngine(2) as engine:
        with pytest.raises(CurateError, match=r"a worker process died .* run again to go on"):
            list(engine.map(die, range(6)))
        assert list(engine.map(square, range(3))) == [0, 1, 4]  # in new processes
        pids = {pid for pid, _ in engine.map(limits, range(4))}
    assert all(gone(pid) for pid in pids)


def test_one_worker_is_this_process():
    with LocalEngine(1) as engine:
        assert [pid for pid, _ in engine.map(limits, range(2))] == [os.getpid()] * 2


HANG = """
import sys
sys.path.insert(0, {tests!r})
from curate.execution.engines.local import LocalEngine
from test_engine import hang
if __name__ == "__main__":
    with LocalEngine(2) as engine:
        list(engine.map(hang, {files!r}))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(tmp_path, how):
    files = [str(tmp_path / name) for name in "ab"]
    script = tmp_path / "script.py"
    script.write_text(HANG.format(tests=str(TESTS), files=files))
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not all(Path(file).exists() and Path(file).read_text() for file in files):
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    pids = [int(Path(file).read_text()) for file in files]
    before = time.monotonic()
    parent.send_signal(how)
    _, said = parent.communicate(timeout=10)
    assert time.monotonic() - before < 2
    assert all(gone(pid) for pid in pids)
    assert parent.returncode == -how
    assert said.count("Traceback") == (1 if how == signal.SIGINT else 0)


def test_ctrl_c_while_workers_start_is_the_parents_alone():
    """Python would print a traceback for a Ctrl-C that comes while a worker still imports."""
    with local._no_interrupt():
        asked = "import signal, time; time.sleep(0.5); print(signal.SIGINT in signal.pthread_sigmask(0, []))"
        child = subprocess.Popen([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True)
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=10)[0].strip() == "True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_workers_do_not_run_the_main_script_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "from curate.execution.engines.local import LocalEngine\n"
        "print('main runs', flush=True)\n"
        "with LocalEngine(2) as engine:\n"
        "    print(sorted(engine.map(abs, [-3, -1, 2])))\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "main runs\n[1, 2, 3]\n", done.stderr
