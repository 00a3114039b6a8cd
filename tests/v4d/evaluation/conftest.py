"""A run to evaluate."""

import pytest

from tests.v4d.evaluation.untrained import save_untrained


@pytest.fixture
def run(dataset, recipe, tmp_path):
    """A run whose network was never trained."""
    save_untrained(tmp_path / "run", dataset, recipe)
    return tmp_path / "run"
