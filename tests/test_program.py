"""The tasks of a step: each done once, whoever comes, however they are divided into shares."""

import threading

import numpy as np
import pytest

from npvgg.engines import plan
from npvgg.engines import program as p
from npvgg.engines.microkernel import LANES


def doubling(channels, images, by_images, near=0):
    """A SCALE step that multiplies maps of one pixel, twos behind them, in their place by two."""
    maps = channels * images * LANES
    fields = {"kind": p.SCALE, "depth_first": near, "images": images, "height": 1, "width": 1}
    fields |= {"x": maps, "x_image": channels * LANES, "x_plane": LANES}
    fields |= {"y": 0, "y_image": channels * LANES, "y_plane": LANES}
    step = p.program_of([fields | plan._shares(channels, images, local=by_images)])
    data = np.arange(2 * maps, dtype=np.float32)
    data[maps:] = 2
    return step, data, maps


@pytest.mark.parametrize("come", [1, 3])
@pytest.mark.parametrize("expected", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("by_images", [True, False])
@pytest.mark.parametrize(("channels", "images"), [(1, 1), (7, 1), (1, 6), (3, 5)])
def test_every_task_is_done_once(channels, images, by_images, expected, come):
    step, data, maps = doubling(channels, images, by_images)
    program = np.concatenate([step, doubling(channels, images, by_images, near=1)[0]])
    empty = np.zeros(LANES, np.float32)
    scratch, state = np.zeros((expected + 3, LANES), np.float32), p.counters(2, expected)
    scratch, canary = scratch[:expected], scratch[expected:]
    canary[:] = 7  # nobody's
    arguments = program, np.zeros(1, np.int64), empty, data, empty, scratch, state
    crew = [threading.Thread(target=p.run, args=arguments) for _ in range(come)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    np.testing.assert_array_equal(data[:maps], 4 * np.arange(maps))
    assert (canary == 7).all()


@pytest.mark.parametrize("near", [0, 1])
@pytest.mark.parametrize(("by_images", "mine"), [(True, {0, 1}), (False, {0})])
def test_a_thread_begins_with_its_share(by_images, mine, near):
    """Of two threads, when the other has taken and done its share: half the images or channels."""
    step, data, maps = doubling(2, 4, by_images, near)
    state, empty = p.counters(1, 2), np.zeros(LANES, np.float32)
    done, begun = 1, (2, 3)
    state[done * p.LINE], state[begun[1] * p.LINE] = 4, 4
    scratch = np.zeros((2, LANES), np.float32)
    p.run(step, np.zeros(1, np.int64), empty, data, empty, scratch, state)
    changed = (data[:maps] != np.arange(maps)).reshape(4, 2, LANES).any(axis=2)
    assert set(np.nonzero(changed)[0 if by_images else 1]) == mine
    assert changed.sum() == 4


@pytest.mark.parametrize(("near", "last"), [(0, {(0, 1), (1, 1)}), (1, {(1, 0), (1, 1)})])
def test_the_tasks_of_a_unit_come_one_after_another_where_it_is_to_stay_near(near, last):
    """A thread comes when two of its share's tasks, of 2 images × 2 channels, are done."""
    step, data, maps = doubling(2, 4, True, near)
    state, empty = p.counters(1, 2), np.zeros(LANES, np.float32)
    done, begun = 1, (2, 3)
    state[done * p.LINE], state[begun[0] * p.LINE], state[begun[1] * p.LINE] = 6, 2, 4
    scratch = np.zeros((2, LANES), np.float32)
    p.run(step, np.zeros(1, np.int64), empty, data, empty, scratch, state)
    changed = (data[:maps] != np.arange(maps)).reshape(4, 2, LANES).any(axis=2)
    assert set(zip(*np.nonzero(changed), strict=True)) == last
