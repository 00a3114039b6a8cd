"""The page: what is known of a run, gathered, and written into one HTML file."""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import jinja2
import torch
from markupsafe import Markup
from pydantic import BaseModel

from preprocess.durable_files import replace_atomically
from preprocess.index import VERSION
from v4d.config import Recipe
from v4d.recipes.files import packaged_recipes
from v4d.report.confusion import ORDERS, Confusion, confusion_of
from v4d.report.curves import read_step_figures, throughput_charts, throughput_table, training_charts
from v4d.report.evaluations import ClassRow, Evaluation, Mistake, choose_evaluation, read_evaluations
from v4d.report.mistakes import Pictures, mistake_pictures
from v4d.runs import epochs, read_record, summary

_MISTAKES_WITHOUT_PICTURES = 8


@dataclass(frozen=True)
class _Setting:
    """A value of the recipe; ``packaged`` is that of the packaged recipe of its name, where it has another."""

    name: str
    value: str
    about: str
    packaged: str


@dataclass(frozen=True, eq=False)
class _Detail:
    """A section of the page about one evaluation; ``is_main`` for the one with pictures."""

    id: str
    evaluation: Evaluation
    is_main: bool
    classes: list[ClassRow]
    confusion: Confusion | None
    mistakes: list[Mistake]
    pictures: dict[Mistake, Pictures]
    notes: list[str]


def write_report(
    run: Path, out: Path, *, root: Path | None, evaluation: str | None, mistakes: int, device: torch.device
) -> list[str]:
    """Write the page about the folder ``run`` to ``out``, whole or not at all; return what is missing on it, and why.

    ``evaluation`` is the folder in it whose ``mistakes`` surest mistakes are shown in pictures (see
    ``choose_evaluation``), with frames from the dataset ``root``, by default the one the run was trained on, decoded on
    ``device``. Of the same files, and by the same versions on the same device, the page is the same, byte for byte.

    Raises DataError if ``run`` is no run, UsageError if it has no such evaluation.
    """
    record = read_record(run)
    found, notes = read_evaluations(run)
    main = choose_evaluation(found, evaluation)
    details = [_detail(f"evaluation-{number}", one, one is main, mistakes) for number, one in enumerate(found, 1)]
    details.sort(key=lambda detail: not detail.is_main)
    for detail in details:
        if detail.is_main:
            pictures, missing = mistake_pictures(run, record, detail.evaluation, detail.mistakes, root, device)
            detail.pictures.update(pictures)
            detail.notes.extend(missing)
    figures = read_step_figures(run)
    said = summary(run)
    training, throughput = training_charts(run, figures), throughput_charts(figures)
    style, script = _file("report.css"), _file("report.js")
    page = _template().render(
        name=run.resolve().name,
        run=str(run),
        record=record,
        summary=said,
        steps=max(said.step, int(figures.steps_S[-1]) + 1 if len(figures.steps_S) else 0),
        began=_time(figures.first),
        ended=_time(figures.last),
        evaluations=found,
        figure_names={name: one.title(name) for one in found for name in one.figures},
        main=main,
        details=details,
        notes=notes,
        eval_command=shlex.join(["v4d", "eval", str(run), "--u-infer", "10"]),
        training=training,
        throughput=throughput,
        throughput_table=throughput_table(figures),
        epochs=epochs(run),
        recipe=_settings(record.recipe),
        versions=record.versions,
        version=VERSION,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        orders=ORDERS,
        data={
            "charts": [chart.data for chart in (*training, *throughput)],
            "confusions": {detail.id: detail.confusion.data for detail in details if detail.confusion},
        },
    )
    with replace_atomically(out) as temporary:
        # Names are what JSON lets them be, half a surrogate pair too.
        temporary.write_bytes(page.encode(errors="backslashreplace"))
    return [*notes, *(note for detail in details for note in detail.notes)]


def _detail(id_: str, evaluation: Evaluation, is_main: bool, mistakes: int) -> _Detail:
    measures, confusion = evaluation.measures, None
    if measures.videos and measures.confusion_KK is not None and measures.accuracy_K is not None:
        confusion = confusion_of(evaluation.dump.class_names, measures.confusion_KK, measures.accuracy_K)
    shown = evaluation.surest_mistakes(mistakes if is_main else _MISTAKES_WITHOUT_PICTURES)
    return _Detail(id_, evaluation, is_main, evaluation.classes(), confusion, shown, {}, [])


def _settings(recipe: Recipe) -> dict[str, list[_Setting]]:
    """The recipe's values by section, with what each means."""
    packaged = packaged_recipes().get(recipe.name)
    found = {}
    for section in Recipe.model_fields:
        values = getattr(recipe, section)
        if not isinstance(values, BaseModel) or section == "fits":
            continue
        usual = getattr(packaged, section).model_dump(mode="json") if packaged else {}
        found[section] = [
            _Setting(
                name,
                json.dumps(value, ensure_ascii=False),
                type(values).model_fields[name].description or "",
                json.dumps(usual[name], ensure_ascii=False) if name in usual and usual[name] != value else "",
            )
            for name, value in values.model_dump(mode="json").items()
        ]
    return found


def _time(when: datetime | None) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC" if when else ""


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.1%}"


def _policy(*inline: str) -> str:
    """Of this page's own style and script, and of pictures in it, the browser takes all, of anything else nothing."""
    style, script = (f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in inline)
    return f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'"


def _file(name: str) -> str:
    return (files("v4d.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("v4d.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("report.html.jinja")
