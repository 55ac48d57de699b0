"""Helpers that may come or not: work is always done, whoever does it."""

import itertools
import threading

import pytest

import npvgg
from npvgg import threads


@pytest.fixture(autouse=True)
def _default():
    yield
    threads.set_num_threads(None)


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
    ("v2", "v1", "quota"),
    [
        ("150000 100000", None, 2),
        ("50000 100000", None, 1),
        ("max 100000", None, None),
        (None, ("300000", "100000"), 3),
        (None, ("-1", "100000"), None),
        (None, None, None),
        ("nonsense", None, None),
    ],
)
def test_the_quota_of_the_control_group_counts(monkeypatch, v2, v1, quota):
    def words(path):
        text = v2 if path.endswith("cpu.max") else v1 and v1[path.endswith("period_us")]
        if text is None:
            raise FileNotFoundError(path)
        return text.split()

    monkeypatch.setattr(threads, "_words", words)
    assert threads._quota() == quota


def test_affinity_is_respected(monkeypatch):
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    assert threads.available() == 3
    monkeypatch.setattr(threads, "_quota", lambda: 2)
    assert threads.available() == 2


def test_all_tickets_are_taken_once_even_where_helpers_are_busy():
    tickets, taken, gate = itertools.count(), [], threading.Event()

    def blocked():
        gate.wait(30)

    idle = threads._take_idle(2)
    for inbox in idle:
        inbox.put(blocked)

    def work():
        while (ticket := next(tickets)) < 1000:
            taken.append(ticket)

    threads.run(work, 4)
    gate.set()
    assert sorted(taken) == list(range(1000))


def test_a_helper_that_fails_does_not_hang_the_next_run(monkeypatch):
    failed = threading.Event()

    def fail_elsewhere():
        if threading.current_thread().name == "npvgg":
            failed.set()
            raise KeyError("planted")

    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    threads.run(fail_elsewhere, 3)
    assert failed.wait(10)
    done = []
    threads.run(lambda: done.append(1), 3)
    assert done
