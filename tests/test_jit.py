"""Compiled kernels are kept, and nothing found in their directory can make a program fail."""

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numba
import pytest

import npvgg
from npvgg.engines import jit, kernelcache

CODE = """
import sys, numpy as np
from npvgg.engines import jit, kernelcache
@jit.kernel
def double(x):
    return 2 * x
assert double(21) == 42
print(sum(double.stats.cache_hits.values()), kernelcache.kernel_cache())
"""


NO_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1"}


def start(script, **environment):
    os.utime(script, (0, 0))  # Numba looks at a script's time and size, too
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_"))}
    root = str(Path(npvgg.__file__).parents[1])
    environment = {k: v for k, v in {**clean, "PYTHONPATH": root, **environment}.items() if v}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    """Wait for a script, which may say that it compiles, and nothing else; give what it prints."""
    results, complaints = process.communicate(timeout=120)
    notice = "compiling the kernels for this processor, once\n"
    assert (process.returncode, complaints.removeprefix(notice)) == (0, "")
    return results


def run(tmp_path, code=CODE, **environment):
    """Run a script whose kernel is cached: (hits, directory of the cache or "None")."""
    script = tmp_path / "script.py"
    script.write_text(code)
    hits, directory = finish(start(script, **environment)).split(" ", 1)
    return int(hits), directory.strip()


def test_the_second_process_finds_the_kernel(tmp_path):
    cache = str(tmp_path / "cache")
    hits, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    assert hits == 0
    assert directory.startswith(cache)
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 1


def zeros_within(whole):
    """What a power failure leaves: the length is right, a page of it was never written."""
    return whole[: len(whole) // 2] + bytes(64) + whole[len(whole) // 2 + 64 :]


def replaced(make):
    """A damage that puts something else in the place of the file."""

    def damage(file):
        whole = file.with_name("elsewhere")
        file.rename(whole)
        make(file, whole)

    return damage


def written(change):
    return lambda file: file.write_bytes(change(file.read_bytes()))


def signed(data):
    return hashlib.sha256(data).digest() + data


DAMAGES = {
    "empty": written(lambda whole: b""),
    "foreign": written(lambda whole: b"garbage"),
    "unsigned": written(lambda whole: pickle.dumps({"not": "ours"})),
    "another_pickle": written(lambda whole: signed(pickle.dumps({"not": "ours"}))),
    "another_name": written(lambda whole: signed(pickle.dumps(("other", ())))),
    "truncated": written(lambda whole: whole[: len(whole) // 2]),
    "zeros_within": written(zeros_within),
    "link": replaced(lambda file, whole: file.symlink_to(whole)),
    "fifo": replaced(lambda file, whole: os.mkfifo(file)),
    "folder": replaced(lambda file, whole: file.mkdir()),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")
def test_a_damaged_file_means_compiling_again(tmp_path):
    names = [*DAMAGES]
    code = "import json\nfrom npvgg.engines import jit, kernelcache\n"
    code += "".join(f"@jit.kernel\ndef {name}(x): return 2 * x\n" for name in names)
    code += "".join(f"assert {name}(21) == 42\n" for name in names)
    hits = ", ".join(f"{name!r}: {name}.stats.cache_hits.total()" for name in names)
    code += f"print(json.dumps({{{hits}}}), kernelcache.kernel_cache(), sep=' - ')"
    script = tmp_path / "script.py"
    script.write_text(code)

    def found():
        results = finish(start(script, XDG_CACHE_HOME=str(tmp_path / "cache")))
        hits, directory = results.strip().split(" - ")
        return {name for name, count in json.loads(hits).items() if count}, Path(directory)

    hits, directory = found()
    assert not hits
    for name in names:
        (file,) = directory.glob(f"{name}-*")
        DAMAGES[name](file)
    assert found()[0] == set()
    assert found()[0] == {*names} - {"folder"}  # nothing can be renamed onto a folder


@pytest.mark.slow
def test_a_digit_of_machine_code_that_changed_is_noticed(tmp_path):
    cache = str(tmp_path / "cache")
    _, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    (file,) = Path(directory).glob("double-*")
    data = bytearray(file.read_bytes())
    code = data.index(b"\x7fELF" if sys.platform == "linux" else b"double")
    data[code + 64] ^= 1
    file.write_bytes(data)
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0


@pytest.mark.slow
def test_a_kernel_is_told_by_what_it_computes(tmp_path):
    """By its constants and its signature, too, not by its name and bytecode alone."""
    cache = str(tmp_path / "cache")
    run(tmp_path, XDG_CACHE_HOME=cache)
    assert run(tmp_path, CODE.replace("double(21)", "double(21.0)"), XDG_CACHE_HOME=cache)[0] == 0
    three = CODE.replace("2 * x", "3 * x").replace("42", "63")
    hits, directory = run(tmp_path, three, XDG_CACHE_HOME=cache)
    assert (hits, len(list(Path(directory).iterdir()))) == (0, 3)
    assert run(tmp_path, three, XDG_CACHE_HOME=cache)[0] == 1


@pytest.mark.slow
def test_a_kept_kernel_is_read_where_nothing_can_be_written(tmp_path):
    """As in a container's image, whose kernels `npvgg warmup --into` made."""
    cache = str(tmp_path / "cache")
    closed = "import os; os.access = lambda *_: False\n"
    assert run(tmp_path, closed + CODE, NUMBA_CACHE_DIR=cache) == (0, "None")  # nothing to read
    _, directory = run(tmp_path, NUMBA_CACHE_DIR=cache)
    kept = {path: path.stat().st_mtime_ns for path in Path(directory).iterdir()}
    assert run(tmp_path, closed + CODE, NUMBA_CACHE_DIR=cache) == (1, directory)
    floats = closed + CODE.replace("double(21)", "double(21.0)")
    assert run(tmp_path, floats, NUMBA_CACHE_DIR=cache) == (0, directory)
    assert {path: path.stat().st_mtime_ns for path in Path(directory).iterdir()} == kept


@pytest.mark.slow
def test_another_processor_and_other_sources_have_a_folder_of_their_own(tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    folders = {
        run(tmp_path, XDG_CACHE_HOME=cache, **processor)[1]
        for processor in (
            {},
            {"NUMBA_CPU_NAME": "generic"},
            {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"},
        )
    }
    assert len(folders) == 3
    package = tmp_path / "engines"
    shutil.copytree(Path(jit.__file__).parent, package)
    monkeypatch.setattr(kernelcache.resources, "files", lambda name: package)
    digests = {kernelcache._digest.__wrapped__()}
    for source in ("jit.py", "program.py"):
        with open(package / source, "a") as file:
            file.write("# changed\n")
        digests.add(kernelcache._digest.__wrapped__())
    assert len(digests) == 3


def test_numbas_own_setting_is_left_alone():
    before = numba.config.CACHE_DIR
    jit.kernel(lambda x: x)
    assert before == numba.config.CACHE_DIR


@pytest.mark.slow
def test_two_processes_may_compile_at_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    processes = [start(script, XDG_CACHE_HOME=str(tmp_path / "cache")) for _ in range(4)]
    for process in processes:
        finish(process)
    assert run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))[0] == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_means_no_cache(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
    cache = str(tmp_path / "cache")
    hits, directory = run(tmp_path, code=full + CODE, XDG_CACHE_HOME=cache, **NO_BYTECODE)
    assert hits == 0
    assert directory.startswith(cache)
    assert list(Path(directory).iterdir()) == []
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners of files")
def test_what_somebody_else_can_write_to_is_not_taken(tmp_path):
    """Whoever writes there could have any machine code run."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    (tmp_path / "file").write_text("")
    cache["HOME"] = str(tmp_path / "file" / "below")
    _, directory = run(tmp_path, **cache)
    assert os.stat(directory).st_mode & 0o077 == 0
    os.chmod(directory, 0o777)
    assert run(tmp_path, **cache)[1].startswith(str(tmp_path / "npvgg-"))
    os.chmod(directory, 0o700)
    for folder in (Path(directory).parent, tmp_path / "cache"):
        os.chmod(folder, 0o777)
        assert run(tmp_path, **cache)[1].startswith(str(tmp_path / "npvgg-"))
        os.chmod(folder, 0o1777)  # nobody can rename what others own, as in /tmp
        assert run(tmp_path, **cache)[1] == directory
        assert os.stat(folder).st_mode & 0o7777 == 0o1777  # and nothing is changed
        os.chmod(folder, 0o700)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners of files")
def test_a_link_in_a_shared_folder_is_not_followed(tmp_path):
    """Somebody else may have put it there."""
    victim, shared = tmp_path / "victim", tmp_path / "shared"
    victim.mkdir(mode=0o755)
    shared.mkdir()
    (tmp_path / "file").write_text("")
    (shared / f"npvgg-{os.getuid()}").symlink_to(victim)
    nowhere = {"HOME": str(tmp_path / "file" / "below"), "TMPDIR": str(shared)}
    assert run(tmp_path, **nowhere) == (0, "None")
    assert (list(victim.iterdir()), victim.stat().st_mode & 0o777) == ([], 0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX directories")
def test_the_folder_is_looked_at_whenever_it_is_used(tmp_path, monkeypatch):
    """Who may open a folder above it could exchange it while the process runs."""
    folder = tmp_path.resolve() / "kernels"
    folder.mkdir(mode=0o700)
    monkeypatch.setattr(kernelcache, "kernel_cache", lambda: folder)
    kernelcache.write("a", 1)
    assert kernelcache.read("a") == 1
    tmp_path.chmod(0o777)
    for use in (lambda: kernelcache.read("a"), lambda: kernelcache.write("a", 2)):
        with pytest.raises(OSError, match="nobody else"):
            use()
    tmp_path.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"directory|symbolic"):
        kernelcache.read("a")


@pytest.mark.slow
@pytest.mark.skipif(getattr(os, "getuid", lambda: 1)() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_elses_is_not_taken(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    (tmp_path / "file").write_text("")
    cache["HOME"] = str(tmp_path / "file" / "below")
    _, directory = run(tmp_path, **cache)
    for folder in (Path(directory), Path(directory).parent):
        os.chown(folder, 12345, -1)
        assert run(tmp_path, **cache)[1].startswith(str(tmp_path / "npvgg-"))
        os.chown(folder, 0, -1)
    assert run(tmp_path, **cache)[1] == directory


@pytest.fixture
def at_once(monkeypatch):
    """A watch that looks all the time; what it says, and a word for when it has looked twice."""
    looks, lines, looked = [], [], threading.Event()

    def missed():
        looks.append(1)
        if len(looks) == 2:
            looked.set()
        return missed.answer

    def warning(line):
        lines.append(line)
        looked.set()

    missed.answer = True
    monkeypatch.setattr(jit, "NOTICE_AFTER", 1e-4)
    monkeypatch.setattr(jit, "_missed", missed)
    monkeypatch.setattr(jit._log, "warning", warning)
    return missed, lines, looked


@pytest.mark.parametrize("missed", [True, False])
def test_compiling_that_takes_long_is_said_once_and_loading_is_not(at_once, missed):
    at_once[0].answer = missed
    with jit.compiling():
        assert at_once[2].wait(60)
    assert at_once[1] == (["compiling the kernels for this processor, once"] if missed else [])


def test_a_kernel_that_is_not_in_the_cache_is_missed(monkeypatch):
    monkeypatch.setattr(kernelcache, "keep", lambda *_: None)  # or a second run would find it
    fresh = jit.kernel(lambda x: x)
    assert not fresh.stats.cache_misses
    fresh(1)
    assert jit._missed()


def test_compiling_that_fails_ends_as_well(at_once):
    at_once[0].answer = False
    with pytest.raises(numba.TypingError), jit.compiling():
        jit.kernel(lambda x: x.nothing)(1)
    for thread in threading.enumerate():
        if thread.name == "npvgg-notice":
            thread.join(60)
            assert not thread.is_alive()


def test_without_room_for_llvm_nothing_is_compiled(monkeypatch):
    resource = pytest.importorskip("resource", reason="limits of memory are POSIX's")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**20, resource.RLIM_INFINITY))
    with (
        pytest.raises(MemoryError, match=r"expected 230 MiB of address space .*, got 0"),
        jit.compiling(),
    ):
        raise AssertionError
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**60, resource.RLIM_INFINITY))
    with jit.compiling():
        pass


# --- Signals and forks ----------------------------------------------------------------------------


@numba.extending.intrinsic
def _interrupting(typing, x):
    """Compile to nothing; Ctrl-C comes while it is being compiled."""

    def emit(context, builder, signature, arguments):
        signal.raise_signal(signal.SIGINT)
        return arguments[0]

    return x(x), emit


def test_an_interrupt_amid_compiling_waits_for_its_end():
    """An exception inside of LLVM's callbacks would be lost, or end the process."""
    steps = []
    interrupted = numba.njit(lambda x: _interrupting(x) + 1)  # not kept: it is always compiled

    def compile():
        with jit.compiling():
            signal.raise_signal(signal.SIGINT)
            steps.append(interrupted(1))
        steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        compile()
    assert steps == [2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert interrupted(1) == 2


def test_a_signal_that_nobody_handles_in_python_is_not_held():
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with jit.compiling():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_handlers_are_put_back_is_held_no_longer(monkeypatch):
    """One may raise before the others are back: ours, left behind, then passes signals on."""
    before = signal.getsignal(signal.SIGINT)
    put = signal.signal
    held = []

    def failing(number, handler):
        if handler is before and number == signal.SIGINT:
            raise InterruptedError
        held.append(handler)
        return put(number, handler)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(jit.signal, "signal", failing)
            with pytest.raises(InterruptedError), jit.compiling():
                pass
        assert signal.getsignal(signal.SIGINT) is not before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        put(signal.SIGINT, before)


def test_in_another_thread_there_is_nothing_to_hold():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with jit.compiling():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [before]


ALONE = """
import os, threading
registered = []
os.register_at_fork = lambda **hooks: registered.append(hooks)
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock
import npvgg.engines.winograd, npvgg.engines.im2col
from npvgg.engines import jit, threads
assert not any(event._registered.values())
def of_npvgg(hook):
    return getattr(hook, "__self__", None) is jit._busy or hook is threads._after_fork
ours = [hooks for hooks in registered if any(map(of_npvgg, hooks.values()))]
assert len(ours) == 2, registered
held, done = threading.Event(), threading.Event()
def other():
    with global_compiler_lock:
        held.set(); done.wait(60)
thread = threading.Thread(target=other); thread.start(); held.wait(60)
nothing = lambda: None
for hooks in ours:  # nobody waits for a compiler that others use
    for after in ("after_in_parent", "after_in_child"):
        hooks.get("before", nothing)(); hooks.get(after, nothing)()
done.set(); thread.join()
print("alone")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_nobody_else_s_compilations_and_forks_are_hooked(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ALONE)
    assert finish(start(script)) == "alone\n"


# --- Another Numba --------------------------------------------------------------------------------

ANOTHER = """
import logging, sys
import numba, numpy as np
from numba.core import codegen, dispatcher, serialize
said = []
class Said(logging.Handler):
    def emit(self, record): said.append(record.getMessage())
logging.getLogger("npvgg").addHandler(Said())
x = np.ones((1, 3, 32, 32), np.float32)

def answer(**options):
    import npvgg
    model = npvgg.create_model("repvgg_nano.cifar10", pretrained=True, **options)
    model(x), npvgg.create_model("repvgg_nano.cifar10", pretrained=True, **options)
    return model(x), model.engine

want, _ = answer(engine="reference")

def without(owner, name, instead=None):
    for module in [m for m in sys.modules if m.startswith("npvgg")]: del sys.modules[module]
    said.clear()
    kept = getattr(owner, name)
    delattr(owner, name) if instead is None else setattr(owner, name, instead)
    try:
        got, engine = answer()
    finally:
        setattr(owner, name, kept)
    np.testing.assert_allclose(got, want, atol=1e-4)
    return engine, list(said)

SLOWLY = "the reference engine takes the place of winograd, slowly: "
PLACE = SLOWLY + "engine: expected one that can be "
for owner, name in [
    (numba, "njit"), (numba, "config"), (numba.extending, "intrinsic"),
]:
    engine, (line,) = without(owner, name)
    assert engine == "reference", name
    assert line.startswith(PLACE + "imported, got 'winograd': "), line

def fails(*arguments): raise NotImplementedError("another Numba")
engine, (line,) = without(dispatcher.Dispatcher, "compile", fails)
assert engine == "reference"
assert line == PLACE + "compiled, got 'winograd': NotImplementedError: another Numba", line

for owner, name in [(sys.modules["numba.core"], "serialize"), (numba, "__version__")]:
    sys.modules.pop("numba.core.serialize") if name == "serialize" else None
    for module in [m for m in sys.modules if m.startswith("npvgg")]: del sys.modules[module]
    said.clear()
    kept = getattr(owner, name)
    delattr(owner, name)
    if name == "serialize": sys.modules["numba.core.serialize"] = None
    try:
        from npvgg.engines import jit
        jit.kernel(lambda x: x)
        jit.kernel(lambda x: x)
    finally:
        setattr(owner, name, kept); sys.modules["numba.core.serialize"] = serialize
    (line,) = said
    assert line.startswith("compiled kernels cannot be kept, every process compiles them: "), line

kept = codegen.get_host_cpu_features
del codegen.get_host_cpu_features
from npvgg.engines.processor import processor
name, features = processor()
codegen.get_host_cpu_features = kept
assert (name, features) == processor()
print("done")
"""


def test_whatever_is_missing_in_numba_the_model_answers_and_it_is_said_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ANOTHER)
    process = start(script)
    results, complaints = process.communicate(timeout=120)
    assert (process.returncode, results) == (0, "done\n"), complaints


SLOW = """
import threading
from npvgg.engines import jit, kernelcache
jit.NOTICE_AFTER = 1e-3
@jit.kernel
def double(x):
    return 2 * x
with jit.compiling():
    assert double(21) == 42
    for thread in threading.enumerate():
        if thread.name == "npvgg-notice": thread.join()
print(0, kernelcache.kernel_cache())
"""


def test_compiling_is_said_also_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "file").touch()
    script = tmp_path / "script.py"
    script.write_text(SLOW)
    process = start(script, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))
    results, complaints = process.communicate(timeout=120)
    assert results.split() == ["0", "None"]
    assert complaints == (
        "compiling the kernels for this processor, in every process: "
        "there is no folder to keep them\n"
    )


def test_without_a_home_there_is_another_place(tmp_path):
    (tmp_path / "file").write_text("")
    _, directory = run(tmp_path, HOME=str(tmp_path / "file" / "below"), TMPDIR=str(tmp_path))
    assert directory.startswith(str(tmp_path))


def test_without_any_place_it_works_uncached(tmp_path):
    (tmp_path / "file").write_text("")
    nowhere = str(tmp_path / "file" / "below")
    hits, directory = run(tmp_path, NUMBA_CACHE_DIR=nowhere)
    assert (hits, directory) == (0, "None")


def test_the_users_choice_of_directory_is_respected(tmp_path):
    mine = str(tmp_path / "mine")
    hits, directory = run(tmp_path, NUMBA_CACHE_DIR=mine)
    assert hits == 0
    assert Path(directory).parent == tmp_path / "mine" / "npvgg"
    assert run(tmp_path, NUMBA_CACHE_DIR=mine) == (1, directory)
