"""Distillation: a student learns what the teacher says of each row, and how sure it is."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from skerry.converter.graph import as_tuple
from skerry.converter.steps.base import TrainingSet, Workbench
from skerry.converter.steps.config import Distill, Prune
from skerry.converter.steps.hints import Hints
from skerry.converter.steps.objective import FromTeachers, Teachers
from skerry.converter.steps.removing import Removing, remove_blocks
from skerry.converter.steps.training import History, fit
from skerry.devices.errors import InputError

__all__ = ["distill"]


def distill(config: Distill, model: nn.Module, bench: Workbench) -> tuple[nn.Module, History]:
    """Train the student, new or as it is, on the teachers' soft targets.

    Returns:
        The student and its losses by epoch.

    Raises:
        InputError: the two do not give the same number of scores, or a hint names no layer.
    """
    bench = replace(bench, training=_rows(config, bench))
    named = [bench.factory(factory, weights) for factory, weights in config.teachers]
    models = named or [_apart(bench.source, model)]
    student = bench.factory(config.student, config.start) if config.student else model
    if config.depth < 1:
        remove_blocks(student, config.depth, bench)
    if config.width < 1:
        narrower = Prune(ratio=1 - config.width, most=1, round_to=0)
        Removing(narrower, student, bench).to(1)
    example = bench.training.example()
    teachers = Teachers(models)
    _check(student, teachers, example)
    if config.epochs == 0:
        return student.eval(), History()
    if not config.augment and not config.hints:
        teachers = Teachers(models, bench.training)
    hints = Hints(config.hints, student, models[0], example) if config.hints else None
    own = bench.function(config.loss) if config.loss else None
    objective = FromTeachers(teachers, config.temperature, config.hard_share, hints, own)
    return student, fit(student, config, bench, objective)


def _apart(source: nn.Module, model: nn.Module) -> nn.Module:
    """The source as a teacher; a copy where it is the student too."""
    return copy.deepcopy(source) if source is model else source


def _rows(config: Distill, bench: Workbench) -> TrainingSet:
    return bench.unlabelled(config.rows) if config.rows else bench.training


@torch.no_grad()
def _check(student: nn.Module, teachers: Teachers, example: tuple[torch.Tensor, ...]) -> None:
    wanted = teachers.ask(example).shape
    given = as_tuple(student.eval()(*example))[0].shape
    if given != wanted:
        raise InputError(
            f"the student gives {list(given[1:])} scores a row, the teacher {list(wanted[1:])}",
            remedy="let both have the same classes",
        )
