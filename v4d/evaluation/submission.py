"""The file that ActivityNet's evaluator of the untrimmed classification task reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.durable_files import replace_atomically
from preprocess.errors import DataError
from v4d.evaluation.scores_file import Scores

_VERSION = "VERSION 1.3"


def write_submission(path: Path, dump: Scores, most: int | None = None) -> None:
    """Write ``version``, ``results`` (of each video's key its classes by name and score) and ``external_data``.

    Of each video come the ``most`` classes of highest score, by default all, the highest first; of those with the same
    score the one with the lower number. ``external_data`` says whether the network started from other weights, and
    which. The file appears whole or not at all.

    Raises DataError where the dump has a video twice, as it has where samples are segments.
    """
    if len(set(dump.keys)) < len(dump.keys):
        raise DataError(
            "the dump has a row for each segment, a submission one for each video: use --protocol untrimmed"
        )
    names = dump.class_names
    document = {"version": _VERSION, "results": {}, "external_data": _external_data(dump.about)}
    # As text and piece by piece: of 5,000 videos and 200 classes all of it is a million objects.
    head, tail = json.dumps(document).split('"results": {}')
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(head + '"results": {')
        for number, (key, scores_K) in enumerate(zip(dump.keys, dump.scores_NK, strict=True)):
            best = np.argsort(-scores_K, kind="stable")[:most].tolist()
            # The shortest decimals that are this float32 and no other.
            listed = [{"label": names[label], "score": float(str(scores_K[label]))} for label in best]
            file.write(",\n"[not number :] + f"{json.dumps(key)}: {json.dumps(listed)}")
        file.write("\n}" + tail + "\n")


def _external_data(about: dict[str, Any]) -> dict[str, Any]:
    if "recipe" not in about:
        return {"used": True, "details": f"the weights are those of {about.get('source') or 'a file'}"}
    start = str(about["recipe"]["train"]["init"])
    if not start:
        return {"used": False, "details": ""}
    # Of a path the name: where it lies is nobody's business.
    return {"used": True, "details": f"training started from the weights {Path(start).name}"}
