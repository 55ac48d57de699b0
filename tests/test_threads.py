"""Helpers that may come or not: work is always done, whoever does it."""

import itertools
import os
import threading
import time

import pytest

import npvgg
from npvgg.engines import threads


@pytest.fixture(autouse=True)
def _default():
    yield
    threads.set_num_threads(None)
    getattr(threads._quota, "cache_clear", lambda: None)()


def test_a_number_is_taken_as_it_is():
    assert threads.resolve(3) == 3


def test_the_default_can_be_set_and_taken_back():
    npvgg.set_num_threads(5)
    assert threads.resolve(None) == 5
    assert threads.resolve(2) == 2
    npvgg.set_num_threads(None)
    assert threads.resolve(None) == threads.available()


@pytest.mark.parametrize("wrong", [0, -1, 257, True, 2.0, "2"])
def test_a_wrong_number_is_refused_by_name(wrong):
    with pytest.raises(npvgg.ArgumentError, match=r"threads: expected 1 … 256"):
        threads.resolve(wrong)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"/sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"/sys/fs/cgroup/cpu.max": "nonsense"}, None),
        ({"/sys/fs/cgroup/cpu.max": "100000 0"}, None),
        ({}, None),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        (  # systemd: CPUQuota= of a slice holds for the service below it
            {
                "/proc/self/cgroup": "0::/a.slice/b.service\n",
                "/sys/fs/cgroup/a.slice/cpu.max": "200000 100000",
                "/sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000",
            },
            2,
        ),
        (  # a blank in a name is part of it
            {
                "/proc/self/cgroup": "0::/user.slice/my app.service\n",
                "/sys/fs/cgroup/user.slice/my app.service/cpu.max": "100000 100000",
            },
            1,
        ),
        (
            {
                "/proc/self/cgroup": "0::/a\n",
                "/sys/fs/cgroup/a/cpu.max": "400000 100000",
                "/sys/fs/cgroup/cpu.max": "700000 100000",
            },
            4,
        ),
        (
            {
                "/proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/docker/1:2\n",
                "/sys/fs/cgroup/cpu/docker/1:2/cpu.cfs_quota_us": "100000",
                "/sys/fs/cgroup/cpu/docker/1:2/cpu.cfs_period_us": "100000",
            },
            1,
        ),
    ],
)
def test_the_quota_of_the_control_groups_counts(monkeypatch, files, quota):
    def read(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path]

    monkeypatch.setattr(threads, "_read", read)
    threads._quota.cache_clear()
    assert threads._quota() == quota


def test_affinity_is_respected(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    assert threads.available() == 3
    monkeypatch.setattr(threads, "_quota", lambda: 2)
    assert threads.available() == 2


def test_all_tickets_are_taken_once_even_where_helpers_are_busy():
    tickets, taken, gate = itertools.count(), [], threading.Event()
    threads.run(lambda: None, 3)
    for _ in range(2):
        threads._crew.invitations.put([lambda: gate.wait(30)])

    def work():
        while (ticket := next(tickets)) < 1000:
            taken.append(ticket)

    threads.run(work, 4)
    gate.set()
    assert sorted(taken) == list(range(1000))


def in_a_helper():
    return threading.current_thread().name == "npvgg"


@pytest.fixture
def one_helper(monkeypatch):
    """Give a function that keeps the only helper busy after a run, and the event that ends it."""
    monkeypatch.setattr(threads, "_crew", threads._Crew())
    came, gate = threading.Event(), threading.Event()

    def stay():
        if in_a_helper():
            came.set()
            gate.wait(30)
        else:
            came.wait(30)

    threads.run(stay, 2)
    assert came.is_set()
    yield gate
    assert threads._crew.hired == 1


def test_a_helper_that_is_not_back_yet_comes_to_the_next_run(one_helper):
    threading.Timer(0.1, one_helper.set).start()
    met = threading.Barrier(2)
    threads.run(lambda: met.wait(30), 2)


def test_a_helper_that_comes_too_late_finds_nothing_to_do(one_helper):
    callers, met = [], threading.Barrier(2)
    for _ in range(3):
        threads.run(lambda: callers.append(threading.current_thread()), 2)
    one_helper.set()
    threads.run(lambda: met.wait(30), 2)  # the helper is here, past all that was asked before
    assert callers == [threading.current_thread()] * 3


def test_a_helper_that_fails_is_replaced(monkeypatch):
    failed = threading.Event()

    def fail_elsewhere():
        if in_a_helper():
            failed.set()
            raise KeyError("planted")
        failed.wait(10)

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    threads.run(fail_elsewhere, 3)
    assert failed.is_set()
    came = threading.Event()
    while not came.is_set():  # the one that failed may not have left yet
        threads.run(lambda: came.set() if in_a_helper() else came.wait(0.1), 3)


def test_a_run_that_is_interrupted_loses_no_helper():
    def interrupted():
        if not in_a_helper():
            raise KeyboardInterrupt

    for _ in range(50):
        with pytest.raises(KeyboardInterrupt):
            threads.run(interrupted, 3)
    met = threading.Barrier(3)
    threads.run(lambda: met.wait(10), 3)  # both helpers come


def test_where_no_threads_are_to_be_had_one_does_it_all(monkeypatch):
    def none_left(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_crew", threads._Crew())
    monkeypatch.setattr(threading.Thread, "start", none_left)
    done = []
    threads.share(done.append, 100, 4)
    assert done == list(range(100))


def test_shared_tasks_are_all_over_when_the_call_returns():
    for count in (0, 1, 2, 50):
        done = []

        def task(i, done=done):
            time.sleep(0.0005 * (i % 3))
            done.append(i)

        threads.share(task, count, 3)
        assert sorted(done) == list(range(count))


@pytest.mark.parametrize("where", ["here", "in a helper"])
def test_a_task_that_fails_is_an_error_of_the_call(where, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    elsewhere = threading.Event()

    def task(i):
        if where == "here" or in_a_helper():
            elsewhere.set()
            raise MemoryError("planted")
        if not elsewhere.wait(10):
            raise RuntimeError("no helper came")
        raise MemoryError("planted again")

    with pytest.raises(MemoryError, match="planted"):
        threads.share(task, 8, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_lock_is_free_in_the_child_of_a_fork():
    lock = threads.Lock()
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock.now:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if not child:
        with lock.now:
            os._exit(0 if threads._crew.hired == 0 else 3)
    assert os.waitpid(child, 0)[1] == 0
    release.set()
    thread.join()
    with lock.now:
        pass
