"""What ``import v4d`` offers, and that it costs nothing until it is used."""

import subprocess
import sys

import pytest

import v4d


@pytest.mark.parametrize("name", v4d.__all__)
def test_every_name_is_there(name):
    assert getattr(v4d, name).__name__ == name
    assert name in dir(v4d)


def test_all_names_come_with_a_star():
    names = {}
    exec("from v4d import *", names)
    assert set(v4d.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'v4d' has no attribute 'create_modle'"):
        v4d.create_modle  # noqa: B018


def test_the_command_line_does_not_wait_for_torch():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, cli, v4d; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "False", done.stderr
