"""Photos in, outcomes out: order, batches, errors in their place, memory that stays small."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from npvgg.cli.decoding import decode
from npvgg.cli.inputs import Photo
from npvgg.errors import ImageError
from npvgg.images.ahead import ahead
from npvgg.pipeline import results


class Numbers:
    """A transform of photos named by numbers; negative ones cannot be read."""

    def __init__(self):
        self.read = []

    def apply(self, source):
        value = int(source.decode())
        self.read.append(value)
        if value < 0:
            raise ImageError(f"cannot read {value}")
        return np.full((1, 1, 1), value, np.float32), (f"note {value}",)


def photo(value):
    return Photo(str(value), str(value).encode())


def forward(x):
    return list(x.ravel())


def predict(photos, transform, forward, batch_size, *, threads=None):
    step = partial(decode, transform=transform)
    return results(photos, step, forward, batch_size=batch_size, threads=threads)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_outcomes_come_in_order_with_errors_in_their_place(batch_size):
    values = [3, -1, 4, 1, -5, 9, 2, 6]
    photos = [photo(v) for v in values] + [Photo("gone", error="no such file")]
    outcomes = list(predict(photos, Numbers(), forward, batch_size))
    assert [o.answer for o in outcomes] == [v if v > 0 else None for v in values] + [None]
    assert [o.error for o in outcomes if o.error] == [
        "cannot read -1", "cannot read -5", "no such file",
    ]  # fmt: skip
    assert outcomes[0].notes == ("note 3",)


def test_a_batch_of_bad_photos_never_reaches_the_network():
    def forward(x):
        raise AssertionError("called")

    assert [o.status for o in predict([photo(-1)] * 3, Numbers(), forward, 2)] == ["error"] * 3


def test_no_more_than_two_batches_are_decoded_ahead():
    transform = Numbers()
    outcomes = predict([photo(v) for v in range(1000)], transform, forward, batch_size=5)
    next(outcomes)
    assert len(transform.read) <= 5 + 2 * 5 + 1
    outcomes.close()


def test_an_error_of_the_network_ends_the_run_and_its_threads():
    def forward(x):
        raise RuntimeError("broken network")

    with pytest.raises(RuntimeError, match="broken network"):
        list(predict([photo(v) for v in range(20)], Numbers(), forward, 4))
    for thread in threading.enumerate():
        if thread.name == "npvgg-decode":
            thread.join(20)
            assert not thread.is_alive()


@pytest.mark.parametrize(("given", "allowed", "decoders"), [(None, 1, 1), (1, 8, 1), (3, 1, 3)])
def test_no_more_decoders_than_threads_were_given_or_the_process_may_use(
    given, allowed, decoders, monkeypatch
):
    monkeypatch.setattr("npvgg.engines.threads.available", lambda: allowed)
    at_work, most, lock = 0, 0, threading.Lock()

    class Slow(Numbers):
        def apply(self, source):
            nonlocal at_work, most
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.01)
            with lock:
                at_work -= 1
            return super().apply(source)

    list(predict([photo(v) for v in range(12)], Slow(), forward, 12, threads=given))
    assert 1 <= most <= decoders


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_and_errors_in_their_turn(threads):
    """Also where no thread can be had."""
    taken = []

    def items():
        for number in range(8):
            taken.append(number)
            yield number

    results = ahead(lambda number: 6 // (5 - number), items(), threads=threads, limit=2)
    assert [next(results), len(taken) <= 3] == [1, True]
    assert [next(results) for _ in range(4)] == [1, 2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_without_memory_for_threads_photos_are_decoded_all_the_same(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    photos = [photo(value) for value in range(1, 6)]
    assert [o.answer for o in predict(photos, Numbers(), forward, 2)] == [1, 2, 3, 4, 5]
