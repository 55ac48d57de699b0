"""Compiled kernels are kept, and nothing found in their directory can make a program fail."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest

import npvgg
from npvgg.engines import jit

CODE = """
import sys, numpy as np
from npvgg.engines import jit
@jit.kernel
def double(x):
    return 2 * x
assert double(21) == 42
print(sum(double.stats.cache_hits.values()), jit.kernel_cache())
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


DAMAGES = {
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"garbage",
    "another_pickle": lambda whole: pickle.dumps({"not": "ours"}),
    "truncated": lambda whole: whole[: len(whole) // 2],
    "zeros_within": zeros_within,
}


def test_a_damaged_file_means_compiling_again(tmp_path):
    names = [f"{kind}_{damage}" for kind in ("nbi", "nbc") for damage in DAMAGES]
    code = "import json\nfrom npvgg.engines import jit\n"
    code += "".join(f"@jit.kernel\ndef {name}(x): return 2 * x\n" for name in names)
    code += "".join(f"assert {name}(21) == 42\n" for name in names)
    hits = ", ".join(f"{name!r}: {name}.stats.cache_hits.total()" for name in names)
    code += f"print(json.dumps({{{hits}}}), jit.kernel_cache(), sep=' - ')"
    script = tmp_path / "script.py"
    script.write_text(code)

    def found():
        results = finish(start(script, XDG_CACHE_HOME=str(tmp_path / "cache")))
        hits, directory = results.strip().split(" - ")
        return {name for name, count in json.loads(hits).items() if count}, Path(directory)

    hits, directory = found()
    assert not hits
    for name in names:
        kind, damage = name.split("_", 1)
        (file,) = directory.rglob(f"*.{name}-*.{kind}")
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert found()[0] == set()
    assert found()[0] == {*names}


def test_a_digit_of_machine_code_that_changed_is_noticed(tmp_path):
    cache = str(tmp_path / "cache")
    _, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    (file,) = Path(directory).rglob("*.nbc")
    data = bytearray(file.read_bytes())
    code = data.index(b"\x7fELF" if sys.platform == "linux" else b"double")
    data[code + 64] ^= 1
    file.write_bytes(data)
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0


def test_what_another_process_has_overwritten_is_not_taken_for_ones_own(tmp_path):
    """Two processes may give one file name to two signatures; the index of the last one stays."""
    cache = str(tmp_path / "cache")
    _, directory = run(tmp_path, XDG_CACHE_HOME=cache)
    (file,) = Path(directory).rglob("*.nbc")
    ints = file.read_bytes()
    file.unlink()
    (index,) = Path(directory).rglob("*.nbi")
    ints_index = index.read_bytes()
    index.unlink()
    run(tmp_path, code=CODE.replace("double(21)", "double(21.0)"), XDG_CACHE_HOME=cache)
    assert file.read_bytes() != ints
    index.write_bytes(ints_index)  # says: for an integer, the file that now holds floats
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0


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
    monkeypatch.setattr(jit, "__file__", str(package / "jit.py"))
    digests = {jit._digest.__wrapped__()}
    for source in ("jit.py", "program.py"):
        with open(package / source, "a") as file:
            file.write("# changed\n")
        digests.add(jit._digest.__wrapped__())
    assert len(digests) == 3


def test_numbas_own_setting_is_left_alone():
    before = numba.config.CACHE_DIR
    jit.kernel(lambda x: x)
    assert before == numba.config.CACHE_DIR


def test_two_processes_may_compile_at_once(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(CODE)
    processes = [start(script, XDG_CACHE_HOME=str(tmp_path / "cache")) for _ in range(4)]
    for process in processes:
        finish(process)
    assert run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))[0] == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_means_no_cache(tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))\n"
    cache = str(tmp_path / "cache")
    hits, directory = run(tmp_path, code=full + CODE, XDG_CACHE_HOME=cache, **NO_BYTECODE)
    assert hits == 0
    assert directory.startswith(cache)
    assert not list(Path(directory).rglob("*.tmp.*"))
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 0
    assert run(tmp_path, XDG_CACHE_HOME=cache)[0] == 1


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
    os.chmod(Path(directory).parent, 0o777)
    assert run(tmp_path, **cache)[1] == directory
    assert os.stat(Path(directory).parent).st_mode & 0o022 == 0


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


@pytest.mark.parametrize(
    ("seconds", "said"),
    [((0.3, 0.3), False), ((0.7, 0.7), True), ((1.5, 0), True), ((2, 2), True)],
    ids=str,
)
def test_compiling_that_takes_over_a_second_in_all_is_said_once(monkeypatch, seconds, said):
    lines, now = [], [0.0]

    class Timer:
        def __init__(self, delay, function):
            self.due, self.function = now[0] + delay, function
            timers.append(self)

        def start(self):
            pass

        def cancel(self):
            self.due = math.inf

    timers = []
    monkeypatch.setattr(jit.threading, "Timer", Timer)
    monkeypatch.setattr(jit.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(jit._log, "warning", lines.append)

    def compilation(function):
        return SimpleNamespace(data={"dispatcher": function})

    ours = compilation(jit.kernel(lambda x: x))
    others = compilation(numba.njit(lambda x: x))
    clock = jit._Clock()
    for pause in seconds:
        clock.on_start(others)
        clock.on_start(ours)
        clock.on_start(ours)  # one kernel that calls another
        clock.on_end(ours)
        now[0] += pause
        for timer in [t for t in timers if t.due <= now[0]]:
            timer.function()
        clock.on_end(ours)
        clock.on_end(others)
        now[0] += 100  # time in which nothing is compiled does not count
    assert len(lines) == said


def test_compiling_that_fails_ends_as_well(monkeypatch):
    clock = jit._Clock()
    numba.core.event.register("numba:compile", clock)
    try:
        with pytest.raises(numba.TypingError):
            jit.kernel(lambda x: x.nothing)(1)
    finally:
        numba.core.event.unregister("numba:compile", clock)
    assert clock.running == 0
    assert clock.left < jit.NOTICE_AFTER


SLOW = """
from npvgg.engines import jit
for clock in jit.event._registered["numba:compile"]:
    clock.left = 1e-3
@jit.kernel
def double(x):
    return 2 * x
assert double(21) == 42
print(0, jit.kernel_cache())
"""


def test_compiling_is_said_also_where_nothing_can_be_kept(tmp_path):
    (tmp_path / "file").touch()
    script = tmp_path / "script.py"
    script.write_text(SLOW)
    process = start(script, NUMBA_CACHE_DIR=str(tmp_path / "file" / "below"))
    results, complaints = process.communicate(timeout=120)
    assert results.split() == ["0", "None"]
    assert complaints == "compiling the kernels for this processor, once\n"


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
