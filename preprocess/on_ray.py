"""Writes shards on a Ray cluster whose nodes see the videos and the dataset's folder under the same paths."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocess.errors import DataError, Interrupted, UsageError, V4dError, stop_signals
from preprocess.ffmpeg import version
from preprocess.index import VERSION
from preprocess.shards import BUILDING, ShardPlan, write_shard

_TIMES_A_SHARD_MAY_LOSE_ITS_NODE = 20
_SECONDS_BETWEEN_LOOKS = 0.5


def write_shards_on_ray(plans: list[ShardPlan], on_video: Callable[[bool], None], address: str | None) -> None:
    """Write shards as tasks of one CPU each. A lost node costs the shards that it was writing: they begin anew.

    ``address`` is Ray's: None for the cluster that RAY_ADDRESS names or, without one, a cluster of this machine's
    cores that ends with the run. ``on_video`` is called when a shard is finished.

    Raises UsageError if Ray is not installed or the cluster is not there, DataError if a node is not fit for the
    run or a shard was lost too often, Interrupted on Ctrl-C or SIGTERM, and what ``write_shard`` raises.
    """
    # A cluster of our own tells nobody that it was used.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray shows its token by itself only to a cluster that it finds by itself.
    if (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
    except ImportError:
        raise UsageError("--executor ray needs Ray: pip install 'v4d[ray]'") from None
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        where = f"no Ray cluster answers at {address}" if address else "Ray does not start"
        raise UsageError(f"{where} ({said}): see --ray-address, and RAY_AUTH_MODE if it wants a token") from None
    task = ray.remote(num_cpus=1, max_retries=_TIMES_A_SHARD_MAY_LOSE_ITS_NODE)(_write_one)
    try:
        with stop_signals() as asked:
            # Most videos first: the last shards to finish are then short ones.
            waiting = [task.remote(plan) for plan in sorted(plans, key=lambda plan: -len(plan.records))]
            while waiting:
                done, waiting = ray.wait(waiting, timeout=_SECONDS_BETWEEN_LOOKS, fetch_local=False)
                if asked.is_set():
                    raise Interrupted
                for taken in ray.get(done):
                    for was_taken in taken:
                        on_video(was_taken)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, (V4dError, OSError)):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0] or repr(error)
        raise DataError(f"Ray gave up ({first}): run the same command again") from None
    finally:
        ray.shutdown()


def _write_one(plan: ShardPlan) -> list[bool]:
    _check_node(plan)
    taken: list[bool] = []
    if not plan.part.exists():
        write_shard(plan, taken.append, lambda: False)
    return taken


def _check_node(plan: ShardPlan) -> None:
    """A node that sees other files, or has other programs, would write another dataset."""
    node = platform.node()
    try:
        begun = json.loads((plan.data / BUILDING / "plan.json").read_bytes())
    except FileNotFoundError:
        begun = None
    if begun != plan.header["options"] or not plan.root.is_dir():
        raise DataError(f"{node} does not see {plan.data} and {plan.root} as the main process does: mount them there")
    mine: dict[str, Any] = {"v4d": VERSION, "ffmpeg": version()}
    for program, has in mine.items():
        if has != begun[program]:
            raise DataError(f"{node} has {program} {has}, the run was begun with {begun[program]}: install that there")
