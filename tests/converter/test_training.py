"""The training loop: it repeats, resumes, stops in time, and says when it diverges."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.augment import Picture, augment
from skerry.converter.steps.base import TrainingSet, Workbench
from skerry.converter.steps.config import Augment, Distill, Finetune, Hint
from skerry.converter.steps.distill import distill
from skerry.converter.steps.finetune import finetune
from skerry.converter.structure import save_model
from skerry.devices.errors import InputError


class Net(nn.Module):
    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def fresh(width: int = 8, classes: int = 4) -> Net:
    torch.manual_seed(1)
    return Net(width, classes).eval()


def rows(count: int = 96) -> TrainingSet:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 4
    images = torch.rand(count, 1, 6, 6, generator=generator) * (labels + 1).reshape(-1, 1, 1, 1)
    return TrainingSet((images,), labels, picture=Picture(channels_last=False))


def bench(
    source: nn.Module | None = None,
    factory: Callable[[str, str], nn.Module] = lambda name, weights: fresh(),
    **more: object,
) -> Workbench:
    torch.set_num_threads(1)
    return Workbench(
        source=source or fresh(),
        training=rows(),
        seed=5,
        factory=factory,
        advance=lambda detail: None,
        **more,  # type: ignore[arg-type]
    )


class Stopped(Exception):
    pass


def stopping_after(epochs: int) -> Callable[[str], None]:
    seen = []

    def advance(detail: str) -> None:
        seen.append(detail)
        if len(seen) == epochs:
            raise Stopped

    return advance


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_goes_on_and_ends_alike(tmp_path: Path, optimizer: str) -> None:
    config = Finetune(
        epochs=5, batch=32, optimizer=optimizer, augment=Augment(crop=1, flip=True), patience=9
    )
    whole, history = finetune(config, fresh(), bench())
    begun = replace(bench(), checkpoints=tmp_path, advance=stopping_after(2))
    with pytest.raises(Stopped):
        finetune(config, fresh(), begun)
    told: list[str] = []
    again = replace(bench(), checkpoints=tmp_path, advance=told.append)
    model, rest = finetune(config, fresh(), again)
    assert [line.partition(",")[0] for line in told] == ["epoch 3/5", "epoch 4/5", "epoch 5/5"]
    assert save_model(model) == save_model(whole)
    assert rest == history


def test_another_runs_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    place = replace(bench(), checkpoints=tmp_path)
    finetune(Finetune(epochs=1), fresh(), place)
    told: list[str] = []
    finetune(Finetune(epochs=2), fresh(), replace(place, advance=told.append))
    assert len(told) == 2
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    told.clear()
    finetune(Finetune(epochs=2), fresh(), replace(place, advance=told.append))
    assert len(told) == 2


def test_a_loss_that_is_not_finite_keeps_the_last_good_weights(tmp_path: Path) -> None:
    calls = []

    def loss(scores: Tensor, _: Tensor | None, labels: Tensor) -> Tensor:
        calls.append(1)
        value = nn.functional.cross_entropy(scores, labels)
        return value * float("nan") if len(calls) > 7 else value  # three batches an epoch

    place = bench(function=lambda text: loss, checkpoints=tmp_path)
    model = fresh()
    with pytest.raises(InputError, match=r"diverged in epoch 3.*after epoch 2") as caught:
        finetune(Finetune(epochs=4, batch=32, loss="own.py:loss"), model, place)
    assert "learning_rate" in str(caught.value)
    kept = fresh()
    load_weights(kept, tmp_path / "last-good.safetensors", ((1, 6, 6),))
    assert save_model(kept) == save_model(model)
    assert all(bool(torch.isfinite(one).all()) for one in kept.state_dict().values())


def test_training_stops_when_held_out_rows_no_longer_gain() -> None:
    _, history = finetune(
        Finetune(epochs=40, batch=32, learning_rate=0.5, patience=2), fresh(), bench()
    )
    assert len(history.loss) == len(history.held_out) < 40
    assert min(history.held_out) == history.held_out[-3]


def test_pictures_are_cropped_and_mirrored_in_either_layout() -> None:
    picture = torch.arange(1, 2 * 3 * 4 * 5 + 1, dtype=torch.uint8).reshape(2, 4, 5, 3)
    how = Augment(crop=2, flip=True)
    last = augment(picture, how, Picture(True), torch.Generator().manual_seed(0))
    first = augment(picture.movedim(-1, 1), how, Picture(False), torch.Generator().manual_seed(0))
    assert last.shape == picture.shape and last.dtype == torch.uint8
    assert torch.equal(first.movedim(1, -1), last)
    only = augment(picture, Augment(flip=True), Picture(True), torch.Generator().manual_seed(1))
    for before, after in zip(picture, only, strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(1))
    kept = set(picture.flatten().tolist()) | {0}
    assert set(last.flatten().tolist()) <= kept


def test_hints_bring_a_narrow_students_features_to_the_teachers() -> None:
    teacher, student = fresh(8), fresh(4)
    place = bench(teacher, lambda name, weights: student)
    config = Distill(student="s", epochs=6, batch=32, learning_rate=1e-2, hints=(Hint("norm"),))
    before = dict(student.named_parameters()).keys()
    trained, history = distill(config, teacher, place)
    assert history.loss[-1] < history.loss[0]
    assert dict(trained.named_parameters()).keys() == before  # the projection is thrown away
    assert not trained.norm._forward_hooks


def test_hints_that_fit_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"no layer 'nrom'.*norm"):
        distill(Distill(epochs=1, hints=(Hint("nrom"),)), fresh(), bench())
    with pytest.raises(InputError, match="the same axes"):
        distill(Distill(epochs=1, hints=(Hint("norm", "head"),)), fresh(), bench())


def test_several_teachers_are_averaged_and_must_agree() -> None:
    made = {"a": fresh(8), "b": fresh(16), "c": fresh(8, 3)}
    place = bench(factory=lambda name, weights: made[name])
    student, history = distill(
        Distill(teacher=("a", "b"), epochs=2, hard_share=0.0), fresh(4), place
    )
    assert len(history.loss) == 2 and student.head.out_features == 4
    with pytest.raises(InputError, match="the teachers give"):
        distill(Distill(teacher=("a", "c"), epochs=1), fresh(), place)


def test_rows_without_labels_teach_as_well() -> None:
    teacher, _ = finetune(Finetune(epochs=20, batch=16, learning_rate=3e-2), fresh(16), bench())
    unlabelled = replace(rows(), labels=torch.zeros(96, dtype=torch.long))
    place = bench(teacher, unlabelled=lambda text: unlabelled)
    config = Distill(rows="more.npz", hard_share=0.0, epochs=30, batch=16, learning_rate=3e-2)
    student, _ = distill(config, fresh(), place)
    with torch.no_grad():
        (images,) = rows().inputs
        same = student(images).argmax(1) == teacher(images).argmax(1)
    assert float(same.float().mean()) > 0.8


def test_a_loss_of_the_users_own_must_be_a_scalar() -> None:
    place = bench(function=lambda text: lambda scores, targets, labels: scores)
    with pytest.raises(InputError, match="no scalar"):
        finetune(Finetune(epochs=1, loss="own.py:loss"), fresh(), place)
