"""How the command line ends as a process: by signals, by crashes, and without its streams."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import npvgg
from npvgg.cli import process

ROOT = Path(npvgg.__file__).parents[1]
CAT = ROOT / "tests" / "photos" / "chelsea.png"
WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "hung up"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and streams")

SCENE = """
import sys, threading, time
from npvgg.cli import output, process
from npvgg.formats.files import atomic_write
process.PATIENCE = 1

def sleep():
    time.sleep(60)

def compute():
    while True:
        try:
            sum(range(1000))
        except BaseException:  # a callback that loses whatever is raised in it
            pass

def write_another_file():
    def pieces():
        yield b"half"
        print("ready", flush=True)
        time.sleep(60)
    atomic_write("another", pieces())

def wait_for_standard_error():
    sys.stderr.write("x" * 10**6)  # nobody reads it yet

def command():
    with output.opened("rows.jsonl", overwrite=False) as place:
        place.ending = lambda done: (b"", b"")
        place.write(b"row\\n")
        if sys.argv[1] != "write_another_file":
            print("ready", flush=True)
        globals()[sys.argv[1]]()

process.run(command)
"""


def listening():
    """Take back what a test run in the background has inherited: SIGINT ignored."""
    for name in WORDS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)


def start(tmp_path, *arguments, code=SCENE, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    options.setdefault("preexec_fn", listening)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=tmp_path, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **options,
    )  # fmt: skip


def npvgg_command(tmp_path, *arguments, **options):
    child = start(tmp_path, *arguments, code="import npvgg.__main__", **options)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


@pytest.mark.parametrize(
    ("name", "deed"),
    [("SIGINT", "sleep"), ("SIGINT", "compute"), ("SIGTERM", "write_another_file"),
     ("SIGHUP", "sleep")],
)  # fmt: skip
def test_one_signal_ends_it_whatever_it_does_and_keeps_what_was_finished(tmp_path, name, deed):
    with start(tmp_path, deed) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, name))
        _, err = child.communicate(timeout=20)
    assert child.returncode == 128 + getattr(signal, name)
    kept = "what was finished is kept in rows.partial.jsonl"
    assert err == f"npvgg: {WORDS[name]}; {kept}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.partial.jsonl"]
    assert (tmp_path / "rows.partial.jsonl").read_text() == "row\n"


def test_it_ends_although_nobody_reads_what_it_says(tmp_path):
    """The command stands in a write to standard error, and holds its lock."""
    with start(tmp_path, "wait_for_standard_error") as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 130
    assert (tmp_path / "rows.partial.jsonl").read_text() == "row\n"


def test_what_its_parent_ignores_it_ignores(tmp_path):
    """As below nohup."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with start(tmp_path, "sleep", code=ignoring + SCENE) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.3)
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise RuntimeError('red \\x1b[31m')", 2, "RuntimeError: red \\x1b[31m\n"),
        ("raise SystemExit(2)", 2, ""),
        ("return 1", 1, ""),
    ],
)
def test_the_status_is_the_command_s_and_a_crash_s_is_never_1(tmp_path, code, status, said):
    code = (
        f"import sys\nfrom npvgg.cli import process\ndef f():\n    {code}\nsys.exit(process.run(f))"
    )
    with start(tmp_path, code=code) as child:
        _, err = child.communicate(timeout=20)
    assert child.returncode == status
    assert err.endswith(said)
    assert bool(err) == bool(said)


def closing(*descriptors):
    """Close some of descriptors 0, 1 and 2 in the child, as `<&-` and its like do."""

    def close():
        for descriptor in descriptors:
            os.close(descriptor)

    return {"preexec_fn": close}


def test_without_streams_nothing_is_lost_or_written_where_it_should_not(tmp_path):
    status, out, err = npvgg_command(
        tmp_path, "embed", CAT, "--output", "e.npy", **closing(0, 1, 2)
    )
    assert (status, out, err) == (0, "", "")
    assert (tmp_path / "e.npy").read_bytes()[:6] == b"\x93NUMPY"
    status, out, err = npvgg_command(tmp_path, "embed", CAT, "--quiet", **closing(1))
    assert status == 2
    assert err == (
        "npvgg: error: standard output: expected an open one or --output FILE, got none\n"
    )
    status, out, err = npvgg_command(tmp_path, "embed", "-", "--quiet", **closing(0))
    assert status == 1
    assert "standard input is closed" in out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(("command", "unbuffered"), [("list", ""), ("--version", "1")])
def test_what_cannot_be_written_is_no_success(tmp_path, monkeypatch, command, unbuffered):
    """Nor does the interpreter, when it ends, try again, complain, and make the status 120."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as full:
        status, _, err = npvgg_command(tmp_path, command, stdout=full)
    said = "npvgg: error: standard output cannot be written: No space left on device\n"
    assert (status, err) == (2, said)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit that Linux keeps")
@pytest.mark.parametrize("mebibytes", [60, 100, 140])
def test_an_import_without_memory_ends_with_a_word_and_status_2(tmp_path, mebibytes):
    """NumPy's libraries cannot be mapped; OpenBLAS would exit(1); or a module finds no memory: with
    an old Numba that is said first, as the reference engine takes its place.
    """
    import resource

    def limited():
        listening()
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes * 2**20,) * 2)

    status, _, err = npvgg_command(tmp_path, "classify", CAT, preexec_fn=limited)
    *before, last = err.splitlines()
    assert (status, last.partition("memory")[0]) == (2, "npvgg: error: out of ")
    assert all(line.startswith("npvgg: ") for line in before)


WARMUP = """
import sys
from npvgg.cli import main, networks
lost = sys.argv.pop(1).split()
def create_model(*_, **__):  # compiling takes long
    from npvgg.engines import kernelcache
    kernelcache.lost += lost
    return lambda x: None
networks.create_model = create_model
sys.exit(main.main(sys.argv[1:]))
"""


def test_kernels_go_into_a_folder_of_choice_for_an_image(tmp_path):
    with start(tmp_path, "", "warmup", "--into", "image", code=WARMUP) as child:
        _, err = child.communicate(timeout=60)
    assert child.returncode == 0
    (kernels,) = (tmp_path / "image" / "npvgg").iterdir()
    assert f"kept in {kernels}; NUMBA_CACHE_DIR={tmp_path / 'image'} finds them\n" in err
    (tmp_path / "file").touch()
    with start(tmp_path, "full", "warmup", "--into", "image", code=WARMUP) as child:
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (2, "npvgg: error: --into: image cannot be written: full\n")
    with start(tmp_path, "", "warmup", "--into", "file/x", code=WARMUP) as child:
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (2, "npvgg: error: --into: file/x cannot be written\n")


@pytest.mark.parametrize(
    ("command", "limit", "threads"),
    [("classify", 2**34, "1"), ("classify", -1, None), ("explain", -1, "1")],
)
def test_blas_starts_no_threads_where_memory_is_limited_nor_in_lessons(
    monkeypatch, command, limit, threads
):
    import resource

    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")  # what is set below goes away afterwards
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (limit, limit))
    monkeypatch.setattr(resource, "RLIM_INFINITY", -1)
    monkeypatch.setattr(sys, "argv", ["npvgg", command, "explain"])
    process._limit_blas()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == threads
