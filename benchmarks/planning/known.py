"""What is known of a recipe on a kind of GPU: measured as it is, scaled from what was, or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.planning.constants import Figure, LoaderConstant, StepConstant, constants
from preprocess.errors import UsageError
from v4d.config import DataConfig, ModelConfig, Recipe
from v4d.device_peak import training_flops
from v4d.models.registry import registered

# A classifier's share of the multiply-adds is small: any number of classes would do.
_CLASSES = 400
# Batches or numbers of frames that differ by so many times from measured ones are taken for near.
_NEAR = 8


def step_rate(recipe: Recipe, gpu: str, share: int, extrapolate: bool) -> Figure:
    """Videos/s of one GPU that trains ``share`` videos of a global batch, beside the loader on JPEG.

    Where only other batches of the network were measured, up to 8 times larger or smaller, it is assumed to be as fast
    as in these. Beyond that it is, with ``extrapolate``, that of the network nearest in multiply-adds that was measured
    on such a GPU in the same precision, scaled by them. Raises UsageError where there is none, or not ``extrapolate``.
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
    if not config.checkpoint_stages:
        wanted = _computation(recipe.model, recipe.data)
        same = [one for one in alike if _of_network(one) == wanted]
        closest = min(same, key=lambda one: abs(math.log(one.batch / at_once)), default=None)
        if closest and closest.batch == at_once:
            return closest.figure()
        if closest and _is_near(closest.batch, at_once):
            return closest.figure("assumed", note=_of_other_batches(closest.batch, at_once))
    if not alike or not extrapolate:
        raise UsageError(_refusal(recipe, gpu, at_once, on_gpu, bool(alike)))
    flops = training_flops(recipe, _CLASSES)
    of_each = {one: training_flops(_as_recipe(one), _CLASSES) for one in alike}
    nearest = min(alike, key=lambda one: (abs(math.log(of_each[one] / flops)), abs(math.log(one.batch / at_once))))
    factor = of_each[nearest] / flops
    note = f"from {nearest.network} ({nearest.value:g}), by multiply-adds: times {factor:.3g}"
    if nearest.batch != at_once:
        note += f"; {_of_other_batches(nearest.batch, at_once)}"
    if config.checkpoint_stages:
        note += "; what train.checkpoint_stages computes again is not counted"
    return nearest.figure("extrapolated", factor, note)


def _is_near(measured: float, wanted: float) -> bool:
    return 1 / _NEAR <= wanted / measured <= _NEAR


def _of_other_batches(measured: int, wanted: int) -> str:
    said = f"that of batches of {measured} on each GPU: {wanted} were not measured"
    return f"{said}, and fewer videos at a time keep a GPU less busy" if wanted < measured else said


def _refusal(recipe: Recipe, gpu: str, at_once: int, on_gpu: Sequence[StepConstant], can_be_scaled: bool) -> str:
    there = "; ".join(
        f"{one.network} in batches of {one.batch}, {one.precision}{', compiled' * one.compile}" for one in on_gpu
    )
    compiled = ", compiled" * recipe.train.compile
    advice = "give your own figure with --videos-per-second-per-gpu or --measured"
    if can_be_scaled:
        advice += ", or take the nearest of these, scaled by multiply-adds, with --extrapolate"
    return (
        f"not measured: {recipe.name} on {gpu} in batches of {at_once} on each, {recipe.train.precision}{compiled}; "
        f"measured there: {there}; {advice}"
    )


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

    Of a number of frames that was not measured it is that of the nearest, as many times as it has of them: unasked
    where they are up to 8 times more or fewer, else with ``extrapolate``.
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
    if not there:
        return None
    frames = data.units * data.frames
    nearest = min(there, key=lambda one: abs(math.log(one.units * one.frames / frames)))
    ratio = nearest.units * nearest.frames / frames
    if not extrapolate and not _is_near(ratio, 1):
        return None
    note = f"from {nearest.units}x{nearest.frames} frames ({nearest.value:g}), by the number of frames"
    return nearest.figure("extrapolated", ratio if inverse else 1 / ratio, note)
