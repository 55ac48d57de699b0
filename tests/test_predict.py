"""Photos in, outcomes out: order, batches, errors in their place, memory that stays small."""

import threading
import time

import numpy as np
import pytest

from npvgg.cli.inputs import Photo
from npvgg.cli.predict import predict
from npvgg.errors import ImageError


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

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="broken network"):
        list(predict([photo(v) for v in range(20)], Numbers(), forward, 4))
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.05)  # a decoder ends when its photo is decoded
    assert threading.active_count() == before


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
