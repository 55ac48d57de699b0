"""Life in a real process: whatever else a process does, the answers are right and they come.

Each scene is a process of its own, so that what it does to threads, forks and signals stays there,
and a deadlock is a test that fails after a while.
"""

import io
import os
import subprocess
import sys
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import npvgg
from npvgg.engines import plan

ROOT = Path(npvgg.__file__).parents[1]
PHOTO = ROOT / "tests" / "photos" / "chelsea.png"

SCENE = """
import os, signal, sys, threading, time
import numpy as np, npvgg
x = np.random.default_rng(0).standard_normal((1, 3, {size}, {size})).astype(np.float32)
def make(engine, threads=2):
    return npvgg.create_model("repvgg_a0", engine=engine, seed=3, threads=threads,
        depths=(1, 1, 1, 1), widths=({w}, {w}, {w}, {w}), stem_chs={w}, num_classes=5)
want = make("reference")(x)
models = [make("im2col"), make("winograd")]
def check(models=models):
    for model in models:
        np.testing.assert_allclose(model(x), want, atol=1e-5 * abs(want).max())
def helpers():
    return sum(thread.name == "npvgg" for thread in threading.enumerate())
def waited(pid):
    for _ in range(600):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise SystemExit("the child hangs")
def child_checks():
    pid = os.fork()
    if not pid:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    assert waited(pid) == 0
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def run(code, *, size=32, w=20, script=None, notice=None, quiet=True, **environment):
    """Play a scene in a process of its own; it must end well and without a word of complaint.

    notice: what it says of compiling; by default it may say it, or not
    quiet: False where other packages may complain
    """
    code = SCENE.format(size=size, w=w) + code
    how = ["-c", code]
    if script is not None:
        script.write_text(code)
        how = [str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environment}
    done = subprocess.run(
        [sys.executable, *how], env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if quiet:
        assert done.stderr in (("", NOTICE) if notice is None else (notice,))
    return done.stdout


NOTICE = "compiling the kernels for this processor, once\n"


# --- How many threads -----------------------------------------------------------------------------


def test_a_model_uses_as_many_threads_as_it_was_given():
    run(
        "check(); assert helpers() == 1\n"
        "one = make('winograd', 1)\n"
        "threads = threading.enumerate()\n"
        "check([one]); assert threading.enumerate() == threads\n"
        "check([make('im2col', 4)]); assert helpers() == 3\n"
    )


def test_without_a_number_a_model_uses_what_is_set_or_what_the_process_may_use():
    run(
        "from npvgg.engines import threads\n"
        "model = make('winograd', None)\n"
        "npvgg.set_num_threads(4); check([model]); assert helpers() == 3\n"
        "npvgg.set_num_threads(None)\n"
        "if hasattr(os, 'sched_setaffinity'):\n"
        "    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "    assert threads.resolve(None) == 1\n"
        "check([model]); assert helpers() == 3\n"
    )


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_of_one_processor_starts_no_thread():
    """As under `taskset`, in a batch system, in a container with --cpuset-cpus."""
    code = (
        "import os, sys, threading; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from npvgg.cli.main import main\n"
        f"assert main(['classify', {str(PHOTO)!r}, '--quiet', *sys.argv[1:]]) == 0\n"
        "print(sum(thread.name == 'npvgg' for thread in threading.enumerate()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for options, helpers in (([], 0), (["--threads", "3"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *options], env=environment, capture_output=True, text=True,
            timeout=300, check=True,
        )  # fmt: skip
        assert "cat" in done.stdout
        assert done.stdout.splitlines()[-1] == str(helpers)


# --- Threads of the caller ------------------------------------------------------------------------


def test_many_threads_may_call_several_models_at_once():
    run(
        "models += [make('winograd', 1), make('im2col', 4), make('winograd', None)]\n"
        "wrong = []\n"
        "def call(i):\n"
        "    try:\n"
        "        for k in range(20): check([models[(i + k) % 5]])\n"
        "    except BaseException as error: wrong.append(error)\n"
        "callers = [threading.Thread(target=call, args=(i,)) for i in range(10)]\n"
        "for c in callers: c.start()\n"
        "for c in callers:\n"
        "    c.join(100); assert not c.is_alive()\n"
        "assert not wrong, wrong\n"
        "assert helpers() <= 3 + 1\n",
        size=48,
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp", "tbb", "workqueue"])
def test_numbas_own_threads_may_run_beside(layer):
    """Numba's workqueue aborts a process in which two threads enter parallel kernels at once."""
    libraries = {"LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib")}  # where pip puts tbb's
    if layer != "workqueue":  # that one is always there
        found = [sys.executable, "-c", f"import numba.np.ufunc.{layer}pool"]
        if subprocess.run(found, env={**os.environ, **libraries}, capture_output=True).returncode:
            pytest.skip(f"Numba finds no {layer} here")
    out = run(
        "import numba\n"
        "@numba.njit(parallel=True)\n"
        "def busy(n):\n"
        "    total = 0.0\n"
        "    for i in numba.prange(n):\n"
        "        total += i ** 0.5\n"
        "    return total\n"
        "busy(10)\n"
        "stop = threading.Event()\n"
        "def loop():\n"
        "    while not stop.is_set(): busy(100_000)\n"
        "thread = threading.Thread(target=loop); thread.start()\n"
        "callers = [threading.Thread(target=check) for _ in range(4)]\n"
        "for c in callers: c.start()\n"
        "for _ in range(20): check()\n"
        "for c in callers: c.join()\n"
        "stop.set(); thread.join()\n"
        "print(numba.threading_layer())\n",
        NUMBA_THREADING_LAYER=layer,
        **libraries,
    )
    assert out.strip() == layer


def answers_of(url, inputs):
    def ask(x):
        body = io.BytesIO()
        np.save(body, x)
        with urllib.request.urlopen(url, body.getvalue(), timeout=60) as response:
            return np.load(io.BytesIO(response.read()))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, inputs))


def test_a_web_server_answers_from_a_thread_per_request():
    model = npvgg.create_model(
        "repvgg_a0", depths=(1, 1, 1, 1), widths=(20, 20, 20, 20), stem_chs=20, threads=2
    )

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            x = np.load(io.BytesIO(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            np.save(self.wfile, model(x))

        def log_message(self, *args):
            pass

    rng = np.random.default_rng(0)
    shapes = [(1 + i % 3, 3, 32, 32 + 8 * (i % 5)) for i in range(40)]
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    want = [model(x) for x in inputs]
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            got = answers_of(f"http://127.0.0.1:{server.server_port}", inputs)
        finally:
            server.shutdown()
            thread.join()
    for mine, expected in zip(got, want, strict=True):
        np.testing.assert_array_equal(mine, expected)


# --- Processes ------------------------------------------------------------------------------------


@forks
def test_the_child_of_a_fork_works_and_so_does_the_parent():
    run("check()\nfor _ in range(3):\n    child_checks(); check()\n")


@forks
def test_the_child_of_a_fork_works_that_came_amid_runs():
    run(
        "check()\n"
        "stop = threading.Event()\n"
        "sizes = iter(range(8, 10_000))\n"
        "def loop():  # new shapes: plans are always being made\n"
        "    while not stop.is_set():\n"
        "        side = next(sizes) % 64 + 1\n"
        "        for model in models: model(np.zeros((1, 3, side, side), np.float32))\n"
        "callers = [threading.Thread(target=loop) for _ in range(3)]\n"
        "for c in callers: c.start()\n"
        "for _ in range(10): child_checks(); check()\n"
        "stop.set()\n"
        "for c in callers: c.join()\n"
    )


@pytest.mark.slow
@forks
def test_a_fork_waits_until_no_kernel_is_being_compiled(tmp_path):
    """Numba's compiler is under a lock, which nobody would open in the child."""
    script = tmp_path / "script.py"
    kernels = "".join(
        f"@jit.kernel\ndef f{i}(x):\n    return np.sort(x)[::-1].copy() + {i}\n" for i in range(3)
    )
    run(
        "from npvgg.engines import jit\n" + kernels + "begun = threading.Event()\n"
        "def compile():\n"
        "    with jit.compiling():\n"
        "        begun.set(); f0(x[0, 0, 0]); f1(x[0, 0, 0])\n"
        "thread = threading.Thread(target=compile); thread.start()\n"
        "begun.wait()\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    check(); assert f2(x[0, 0, 0])[0] == x[0, 0, 0].max() + 2; os._exit(0)\n"
        "assert waited(pid) == 0\n"
        "thread.join()\n"
        "assert f0.stats.cache_misses and f1.stats.cache_misses  # compiled when the fork came\n"
        "check(); assert f2(x[0, 0, 0])[0] == x[0, 0, 0].max() + 2\n",
        script=script,
        XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME", ""),
    )


POOL = """
def work(i):
    check(); return i
if __name__ == "__main__":
    check()
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_work(method, tmp_path):
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    run(
        POOL + "    import multiprocessing as mp\n"
        f"    with mp.get_context('{method}').Pool(2) as pool:\n"
        "        assert pool.map(work, range(4)) == [0, 1, 2, 3]\n"
        "        assert np.array_equal(pool.apply(models[1], (x,)), models[1](x))\n",
        script=tmp_path / "script.py",
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
def test_workers_of_joblib_work(backend, tmp_path):
    pytest.importorskip("joblib", reason="the package joblib is not installed")
    run(
        POOL + "    import joblib\n"
        f"    with joblib.parallel_config(backend='{backend}', n_jobs=2):\n"
        "        calls = [joblib.delayed(work)(i) for i in range(4)]\n"
        "        assert joblib.Parallel()(calls) == [0, 1, 2, 3]\n"
        "        calls = [joblib.delayed(models[1])(x) for _ in range(4)]\n"
        "        for y in joblib.Parallel()(calls): assert np.array_equal(y, models[1](x))\n",
        script=tmp_path / "script.py",
    )


# --- Interrupts and errors ------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals between threads")
def test_an_interrupted_run_leaves_everything_usable():
    run(
        "check()\n"
        "met, going = 0, True\n"
        "def interrupt():\n"
        "    while going:\n"
        "        time.sleep(0.003); signal.pthread_kill(main, signal.SIGINT)\n"
        "main = threading.get_ident()\n"
        "thread = threading.Thread(target=interrupt)\n"
        "side = 0\n"
        "try:\n"
        "    thread.start()\n"
        "except KeyboardInterrupt: pass\n"
        "while met < 100:\n"
        "    try:\n"
        "        side = side % 64 + 1\n"
        "        for model in models:\n"
        "            model(x); model(np.zeros((1, 3, side, side), np.float32))\n"
        "    except KeyboardInterrupt: met += 1\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "going = False; thread.join()\n"
        "check()\n"
        "assert helpers() == 1\n"
        "together = threading.Barrier(2)\n"
        "from npvgg.engines import threads\n"
        "threads.run(lambda: together.wait(20), 2)\n",
        size=64,
    )


@pytest.mark.parametrize("where", ["plan", "compiled"])
def test_a_run_without_memory_leaves_the_model_usable(where, monkeypatch):
    """Memory may end while maps get their place, or while weights are packed."""
    model = npvgg.create_model("repvgg_a0", width_factor=0.25, threads=2)
    x = np.ones((1, 3, 128, 128), np.float32)

    def nothing_left(floats):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(f"npvgg.engines.{where}.aligned", nothing_left)
        for _ in range(2):
            with pytest.raises(MemoryError):
                model(x)
    want = npvgg.create_model("repvgg_a0", width_factor=0.25, threads=2)(x)
    np.testing.assert_array_equal(model(x), want)


# --- Memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_thousand_shapes_take_no_more_memory_than_a_few():
    out = run(
        "def resident():\n"
        "    return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE')\n"
        "def go(first, last):\n"
        "    for i in range(first, last):\n"
        "        image = np.zeros((1 + i % 3, 3, 32 + i % 31, 32 + i // 31), np.float32)\n"
        "        for model in models: model(image)\n"
        "go(0, 200); before = resident()\n"
        "go(200, 1000)\n"
        "print((resident() - before) / 2**20)\n"
    )
    assert float(out) < 25  # a workspace is 1 to 3 MB: 800 of them would be a gigabyte


def test_as_many_workspaces_as_callers_and_no_more_are_kept_than_two():
    model = npvgg.create_model("repvgg_a0", width_factor=0.25, threads=1)
    x = np.ones((1, 3, 40, 40), np.float32)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(model, [x] * 64))
    (kept,) = model._engine.prepared._plans.values()
    assert isinstance(kept, plan.Plan)
    assert 1 <= len(kept._free) <= 2


# --- Processors -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["haswell", "generic"])
def test_older_processors_get_their_own_code(cpu, tmp_path):
    """A first process compiles for seconds, and says so; a second one does not."""
    processor = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": "", "XDG_CACHE_HOME": str(tmp_path)}
    run("check()", notice=NOTICE, **processor)
    run("check()", notice="", **processor)


def test_tiny_shapes_work_without_the_compiler():
    run("check()", size=6, w=2, NUMBA_DISABLE_JIT="1")
