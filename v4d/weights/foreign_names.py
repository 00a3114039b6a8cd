"""What other projects call the weights of an I3D-S ResNet, and what they are called here.

Seen in their sources: torchvision's ResNet, pytorchvideo's create_resnet, PySlowFast's VideoModelStem, ResStage and
ResNetBasicHead, mmaction2's ResNet3dSlowOnly with I3DHead, and the V4D authors' TSN around I3ResNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

RELEASED = "v4d-released"
# In units of 0 to 255.
_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# 0.45 and 0.225 of 0 to 1, for each colour: DATA.MEAN and DATA.STD of PySlowFast, and pytorchvideo's tutorials.
_FAIR = (114.75, 114.75, 114.75), (57.375, 57.375, 57.375)

Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Naming:
    """A project's names of the modules, with {stage}, {block} and {conv} for numbers or letters that vary.

    ``res2`` is the number of our stage res2 there, ``convs`` the names of a block's convolutions in order, ``pixels``
    the mean and deviation that their networks expect pixels to be normalised with.
    """

    stem_conv: str
    stem_norm: str
    conv: str
    norm: str
    shortcut_conv: str
    shortcut_norm: str
    classifier: str
    block_4d: str = ""
    res2: int = 1
    convs: str = "123"
    pixels: Pixels = _IMAGENET

    def patterns(self) -> list[tuple[re.Pattern[str], str]]:
        """Regular expressions for their module names, each with our name."""
        ours = {
            self.stem_conv: "layers.stem.0",
            self.stem_norm: "layers.stem.1",
            self.conv: "layers.res{stage}_{block}.conv{conv}",
            self.norm: "layers.res{stage}_{block}.norm{conv}",
            self.shortcut_conv: "layers.res{stage}_{block}.shortcut.0",
            self.shortcut_norm: "layers.res{stage}_{block}.shortcut.1",
            self.classifier: "classifier",
            self.block_4d: "layers.res{stage}_{block}_4d.conv",
        }
        return [(self._pattern(theirs), name) for theirs, name in ours.items() if theirs]

    def _pattern(self, theirs: str) -> re.Pattern[str]:
        stages = f"(?P<stage>[{self.res2}-{self.res2 + 3}])"
        varying = {"{stage}": stages, "{block}": r"(?P<block>\d+)", "{conv}": f"(?P<conv>[{self.convs}])"}
        parts = re.split(r"(\{\w+\})", theirs)
        return re.compile("".join(varying.get(part) or re.escape(part) for part in parts))


def _as_torchvision(prefix: str, classifier: str, block_4d: str = "") -> Naming:
    return Naming(
        stem_conv=f"{prefix}conv1",
        stem_norm=f"{prefix}bn1",
        conv=f"{prefix}layer{{stage}}.{{block}}.conv{{conv}}",
        norm=f"{prefix}layer{{stage}}.{{block}}.bn{{conv}}",
        shortcut_conv=f"{prefix}layer{{stage}}.{{block}}.downsample.0",
        shortcut_norm=f"{prefix}layer{{stage}}.{{block}}.downsample.1",
        classifier=classifier,
        block_4d=block_4d,
    )


NAMINGS = {
    "torchvision": _as_torchvision("", "fc"),
    "pytorchvideo": Naming(
        stem_conv="blocks.0.conv",
        stem_norm="blocks.0.norm",
        conv="blocks.{stage}.res_blocks.{block}.branch2.conv_{conv}",
        norm="blocks.{stage}.res_blocks.{block}.branch2.norm_{conv}",
        shortcut_conv="blocks.{stage}.res_blocks.{block}.branch1_conv",
        shortcut_norm="blocks.{stage}.res_blocks.{block}.branch1_norm",
        classifier="blocks.5.proj",
        convs="abc",
        pixels=_FAIR,
    ),
    "pyslowfast": Naming(
        stem_conv="s1.pathway0_stem.conv",
        stem_norm="s1.pathway0_stem.bn",
        conv="s{stage}.pathway0_res{block}.branch2.{conv}",
        norm="s{stage}.pathway0_res{block}.branch2.{conv}_bn",
        shortcut_conv="s{stage}.pathway0_res{block}.branch1",
        shortcut_norm="s{stage}.pathway0_res{block}.branch1_bn",
        classifier="head.projection",
        res2=2,
        convs="abc",
        pixels=_FAIR,
    ),
    "mmaction2": Naming(
        stem_conv="backbone.conv1.conv",
        stem_norm="backbone.conv1.bn",
        conv="backbone.layer{stage}.{block}.conv{conv}.conv",
        norm="backbone.layer{stage}.{block}.conv{conv}.bn",
        shortcut_conv="backbone.layer{stage}.{block}.downsample.conv",
        shortcut_norm="backbone.layer{stage}.{block}.downsample.bn",
        classifier="cls_head.fc_cls",
    ),
    RELEASED: _as_torchvision("base_model.", "new_fc", "base_model.layer{stage}.{block}.tsa"),
}
_RELEASED_PLACE = re.compile(r"(?P<stage>base_model\.layer[1-4])\.(?P<place>\d+)\.(?P<rest>.+)")


def our_names(naming: str, keys: Iterable[str]) -> dict[str, str | None]:
    """For each key of a state dict in one of NAMINGS its name in ours, or None where it has none."""
    keys = list(keys)
    patterns = NAMINGS[naming].patterns()
    numbered = _released_blocks(keys) if naming == RELEASED else {}
    return {key: _our_name(numbered.get(key, key), patterns, NAMINGS[naming]) for key in keys}


def nearest_naming(keys: Iterable[str]) -> str | None:
    """The one of NAMINGS that knows most of the keys of a state dict, or None if none knows one."""
    keys = list(keys)
    known = {naming: sum(name is not None for name in our_names(naming, keys).values()) for naming in NAMINGS}
    best = max(known, key=lambda naming: known[naming])
    return best if known[best] else None


def _our_name(key: str, patterns: list[tuple[re.Pattern[str], str]], naming: Naming) -> str | None:
    module, _, leaf = key.rpartition(".")
    for pattern, ours in patterns:
        if found := pattern.fullmatch(module):
            said = found.groupdict()
            stage = int(said.get("stage", 0)) - naming.res2 + 2
            conv = naming.convs.index(said.get("conv", naming.convs[0])) + 1
            return f"{ours.format(stage=stage, block=said.get('block'), conv=conv)}.{leaf}"
    return None


def _released_blocks(keys: list[str]) -> dict[str, str]:
    """The released networks' keys with residual blocks numbered by themselves, and 4D blocks by those they follow.

    There a 4D block is an entry of its stage's sequence behind the residual block that it follows, and so moves the
    numbers of those that come after: layer2.2.tsa follows layer2.1, and layer2.3 is the third residual block.
    """
    found = [(key, match) for key in keys if (match := _RELEASED_PLACE.fullmatch(key))]
    places_4d = {(m["stage"], int(m["place"])) for _, m in found if m["rest"].startswith("tsa.")}
    numbered = {}
    for key, match in found:
        stage, place = match["stage"], int(match["place"])
        block = place - sum(other == stage and before < place for other, before in places_4d)
        is_4d = (stage, place) in places_4d
        numbered[key] = f"{stage}.{block - 1 if is_4d else block}.{match['rest']}"
    return numbered
