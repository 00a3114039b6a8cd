"""What is known of a recipe on a kind of GPU: measured as it is, scaled from what was, or not at all."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.planning.constants import Figure, LoaderConstant, StepConstant, constants
from preprocess.errors import UsageError
from v4d.config import DataConfig, ModelConfig, Recipe
from v4d.device_peak import training_flops
from v4d.models.registry import registered

# A classifier's share of the multiply-adds is small: any number of classes would do.
_CLASSES = 400


def step_rate(recipe: Recipe, gpu: str, share: int, extrapolate: bool) -> Figure:
    """Videos/s of one GPU that trains ``share`` videos of a global batch, beside the loader on JPEG.

    Where this was not measured it is, with ``extrapolate``, that of the network nearest in multiply-adds that was
    measured on such a GPU in the same precision, scaled by them. Raises UsageError where there is none, or not
    ``extrapolate``.
    """
    on_gpu = [one for one in constants().step if one.gpu == gpu]
    if not on_gpu:
        kinds = ", ".join(sorted({one.gpu for one in constants().step}))
        raise UsageError(
            f"not measured: training on a GPU '{gpu}' (there are {kinds}); give your own figure with "
            "--videos-per-second-per-gpu, or that of v4d bench data --json with --measured FILE"
        )
    config = recipe.train
    at_once = min(config.micro_batch or share, share)
    alike = [one for one in on_gpu if (one.precision, one.compile) == (config.precision, config.compile)]
    wanted = _computation(recipe.model, recipe.data)
    for one in alike:
        if one.batch == at_once and _of_network(one) == wanted and not config.checkpoint_stages:
            return one.figure()
    if not alike or not extrapolate:
        there = "; ".join(
            f"{one.network} in batches of {one.batch}, {one.precision}{', compiled' * one.compile}" for one in on_gpu
        )
        compiled = ", compiled" * config.compile
        advice = "give your own with --videos-per-second-per-gpu or --measured"
        if alike:
            advice += ", or take the nearest of these, scaled by multiply-adds, with --extrapolate"
        raise UsageError(
            f"not measured: {recipe.name} on {gpu} in batches of {at_once} on each, {config.precision}{compiled}; "
            f"measured there: {there}; choose another --batch-per-gpu, {advice}"
        )
    flops = training_flops(recipe, _CLASSES)
    of_each = {one: training_flops(_as_recipe(one), _CLASSES) for one in alike}
    nearest = min(alike, key=lambda one: (abs(math.log(of_each[one] / flops)), abs(math.log(one.batch / at_once))))
    factor = of_each[nearest] / flops
    note = f"from {nearest.network} ({nearest.value:g}), by multiply-adds: times {factor:.3g}"
    if nearest.batch != at_once:
        note += f"; in batches of {nearest.batch}, {at_once} were not measured"
    return nearest.figure(factor, note)


def _computation(model: ModelConfig, data: DataConfig) -> tuple[Any, ...]:
    """What the time of a step depends on."""
    network = (model.depth, model.base_width, model.blocks_4d, model.block_4d, model.kernel_4d, model.norm_4d)
    return (*network, data.units, data.frames, data.train_crop)


def _of_network(one: StepConstant) -> tuple[Any, ...]:
    known = registered(one.network)
    return _computation(known.model, known.data)


def _as_recipe(one: StepConstant) -> Recipe:
    known = registered(one.network)
    return Recipe(name=one.network, model=known.model, data=known.data)


def loader_rate(data: DataConfig, gpu: str, codec: str, extrapolate: bool) -> Figure | None:
    """Videos/s that the loader alone gives one GPU, or None where that was not measured.

    With ``extrapolate`` it is that of another number of frames on such a GPU, as many times as it has of them.
    """
    return _of_frames(constants().loader, data, gpu, codec, extrapolate, inverse=True)


def loader_cpu(data: DataConfig, gpu: str, codec: str, extrapolate: bool) -> Figure | None:
    """Milliseconds of CPU that the loader takes for a video; see ``loader_rate``."""
    return _of_frames(constants().loader_cpu, data, gpu, codec, extrapolate, inverse=False)


def _of_frames(
    among: tuple[LoaderConstant, ...], data: DataConfig, gpu: str, codec: str, extrapolate: bool, inverse: bool
) -> Figure | None:
    there = [one for one in among if (one.gpu, one.codec) == (gpu, codec)]
    for one in there:
        if (one.units, one.frames) == (data.units, data.frames):
            return one.figure()
    if not there or not extrapolate:
        return None
    frames = data.units * data.frames
    nearest = min(there, key=lambda one: abs(math.log(one.units * one.frames / frames)))
    ratio = nearest.units * nearest.frames / frames
    note = f"from {nearest.units}x{nearest.frames} frames ({nearest.value:g}), by the number of frames"
    return nearest.figure(ratio if inverse else 1 / ratio, note)
