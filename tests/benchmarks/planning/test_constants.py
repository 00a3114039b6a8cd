"""Every constant is written down where it says, in the words that it quotes."""

import re
from pathlib import Path

import pytest

from benchmarks.planning.constants import constants
from preprocess.ffmpeg import EncodeOptions
from v4d.models.registry import list_models

ROOT = Path(__file__).parents[3]


def section(page, heading):
    """The text below a heading, up to the next one."""
    parts = re.split(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[heading]


@pytest.mark.parametrize("one", constants().every(), ids=lambda one: f"{type(one).__name__}-{one.value:g}")
def test_it_is_said_on_its_page(one):
    text = " ".join(section((ROOT / one.source).read_text(), one.heading).split())
    assert one.said in text
    assert any(f"{one.value:{form}}" in one.said for form in ("g", ",.0f", ".1f", ".2f"))
    assert one.machine in constants().machines


def test_every_codec_has_all_packets_that_it_is_written_with():
    for codec in ("mjpeg", "vp9", "h264"):
        options = EncodeOptions(codec=codec)
        backs = [one.back for one in constants().packet if one.codec == codec]
        assert sorted(backs) == sorted({options.back_of(number) for number in range(options.gop)})
        assert [one.codec for one in constants().encode].count(codec) == 1


def test_what_is_measured_of_a_gpu_is_told_apart():
    of_steps = [(one.gpu, one.network, one.batch, one.precision, one.compile) for one in constants().step]
    assert len(set(of_steps)) == len(of_steps)
    assert {one.network for one in constants().step} <= set(list_models())
    for table in (constants().loader, constants().loader_cpu):
        of_loader = [(one.gpu, one.codec, one.units, one.frames) for one in table]
        assert len(set(of_loader)) == len(of_loader)


def test_a_quote_that_is_not_there_is_seen():
    with pytest.raises(AssertionError):
        test_it_is_said_on_its_page(constants().step[0].model_copy(update={"said": "| ResNet-18, compiled | 900 |"}))
    with pytest.raises(AssertionError):
        test_it_is_said_on_its_page(constants().step[0].model_copy(update={"value": 900.0}))
