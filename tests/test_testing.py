"""The example at the front door runs, and its test can fail."""

import re
import textwrap

import pytest

import npvgg
from npvgg import testing
from npvgg.engines.reference import ReferenceNetwork


def example():
    code = re.search(
        r"(    from npvgg.testing import.*?)\n\nThe port takes", testing.__doc__, re.DOTALL
    )
    return textwrap.dedent(code[1])


def run_example(my_port):
    names = {"my_port": my_port}
    exec(compile(example(), "testing.py", "exec"), names)
    names["test_my_port"]()


def port(x, weights):
    return ReferenceNetwork(weights.astype("float32")).logits(x)


def test_the_example_passes_a_right_port_and_fails_a_wrong_one():
    run_example(port)
    with pytest.raises(AssertionError):
        run_example(lambda x, weights: port(x[:, ::-1], weights))


def test_the_door_shows_everything():
    assert sorted(testing.__all__) == testing.__all__
    for name in testing.__all__:
        assert getattr(testing, name).__doc__


def test_the_front_door_is_no_wider_for_it():
    assert not hasattr(npvgg, "Pack")
