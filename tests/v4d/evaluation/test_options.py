"""Options of ``v4d eval`` that say nothing under the protocol that was chosen are refused, and not passed over."""

import pytest
from click.testing import CliRunner

from cli import main


def refused(*arguments):
    result = CliRunner().invoke(main, ["eval", *arguments])
    assert result.exit_code == 2, (result.output, result.exception)
    return result.stderr


@pytest.mark.parametrize(
    ("kind", "option", "value", "fitting"),
    [
        ("v4d", "--clips", "4", "dense"),
        ("tsn", "--clips", "10", "dense"),
        ("untrimmed", "--clips", "4", "dense"),
        ("dense", "--u-infer", "10", "v4d or tsn"),
        ("untrimmed", "--u-infer", "4", "v4d or tsn"),
        ("v4d", "--units-per-second", "2", "untrimmed"),
        ("dense", "--units-per-second", "1", "untrimmed"),
        ("untrimmed", "--reverse", "frames", "v4d, tsn or dense"),
        ("untrimmed", "--shuffle", "units", "v4d, tsn or dense"),
        ("untrimmed", "--shuffle-seed", "0", "v4d, tsn or dense"),
    ],
)
def test_an_option_of_another_protocol_is_refused(kind, option, value, fitting):
    """Also where its value is the default one: who gives it expects something of it."""
    protocol = [] if kind == "v4d" else ["--protocol", kind]
    assert refused("nowhere", *protocol, option, value) == (
        f"v4d: {option} is for --protocol {fitting}, not {kind}: leave it out\n"
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shuffle-seed", "1"], "--shuffle-seed is for --shuffle units: give both, or leave it out"),
        (["--submission-top", "3"], "--submission-top is for --submission FILE"),
    ],
)
def test_an_option_of_another_one_is_refused_without_it(arguments, says):
    assert refused("nowhere", *arguments) == f"v4d: {says}\n"


def test_a_file_is_no_folder_of_results(tmp_path):
    (tmp_path / "scores").write_text("of somebody")
    assert f"Directory '{tmp_path / 'scores'}' is a file" in refused("nowhere", "--out", str(tmp_path / "scores"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--u-infer", "4"],
        ["--protocol", "tsn", "--u-infer", "4", "--shuffle", "units", "--shuffle-seed", "3"],
        ["--protocol", "dense", "--clips", "2", "--reverse", "frames"],
        ["--protocol", "untrimmed", "--units-per-second", "0.5", "--crops", "1"],
    ],
)
def test_those_that_fit_are_taken(arguments):
    result = CliRunner().invoke(main, ["eval", "nowhere", "--gpus", "0", *arguments])
    assert "there is no checkpoint in nowhere" in result.stderr
