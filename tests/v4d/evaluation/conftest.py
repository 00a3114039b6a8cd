"""A run to evaluate."""

import pytest

from tests.v4d.untrained import untrained_run


@pytest.fixture
def run(dataset, recipe, tmp_path):
    """A run whose network was never trained."""
    untrained_run(tmp_path / "run", recipe, dataset)
    return tmp_path / "run"
