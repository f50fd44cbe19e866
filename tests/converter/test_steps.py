"""Training steps: they learn, they shrink, they repeat."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from skerry.converter.source.pytorch import load_weights
from skerry.converter.steps.base import TrainingSet, Workbench, parameters
from skerry.converter.steps.config import Distill, Finetune, Prune
from skerry.converter.steps.distill import distill
from skerry.converter.steps.finetune import finetune
from skerry.converter.steps.prune import prune
from skerry.converter.structure import Structure, save_model
from skerry.devices.errors import InputError


class Residual(nn.Module):
    """A shortcut, two branches that are concatenated, and a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.left = nn.Conv2d(width, width, 3, padding=1)
        self.right = nn.Conv2d(width, width // 2, 1)
        self.head = nn.Linear(width + width // 2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        both = torch.cat([x + self.left(x), self.right(x)], 1)
        return self.head(torch.relu(both).mean((2, 3)))


def rows(count: int = 192) -> TrainingSet:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    labels = torch.arange(count) % 4
    return TrainingSet((images * (labels + 1).reshape(-1, 1, 1, 1),), labels)


def fresh(width: int = 16) -> Residual:
    torch.manual_seed(1)
    return Residual(width).eval()


def bench(source: nn.Module, factory: Callable[[], nn.Module] = fresh) -> Workbench:
    torch.set_num_threads(1)
    return Workbench(
        source=source,
        training=rows(),
        seed=5,
        factory=lambda name, weights: factory(),
        advance=lambda detail: None,
    )


def accuracy(model: nn.Module) -> float:
    training = rows()
    with torch.no_grad():
        return float((model(*training.inputs).argmax(1) == training.labels).float().mean())


_TUNE = Finetune(epochs=14, batch=32, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    model, _ = finetune(_TUNE, fresh(), bench(fresh()))
    return model


def test_fine_tuning_learns_and_repeats(trained: nn.Module) -> None:
    assert accuracy(trained) > 0.8 > accuracy(fresh())
    again, history = finetune(_TUNE, fresh(), bench(fresh()))
    assert save_model(again) == save_model(trained)
    assert len(history.loss) == _TUNE.epochs and history.loss[-1] < history.loss[0]
    assert not again.training


def test_a_student_learns_from_its_teacher(trained: nn.Module) -> None:
    config = Distill(student="s", epochs=14, batch=32, learning_rate=1e-2, hard_share=0.0)
    student, _ = distill(config, trained, bench(trained, lambda: fresh(8)))
    assert parameters(student) < parameters(trained) / 3
    assert accuracy(student) > 0.8


def test_a_student_with_other_classes_is_refused(trained: nn.Module) -> None:
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InputError, match="scores a row"):
        distill(Distill(student="s", epochs=1), trained, bench(trained, lambda: wrong))


def test_frozen_parameters_stay(trained: nn.Module) -> None:
    model = fresh()
    stem = model.stem.weight.clone()
    left = model.left.weight.clone()
    finetune(Finetune(epochs=1, freeze=("stem",)), model, bench(trained))
    assert torch.equal(model.stem.weight, stem)
    assert not torch.equal(model.left.weight, left)
    with pytest.raises(InputError, match="frozen"):
        everything = ("stem", "norm", "left", "right", "head")
        finetune(Finetune(epochs=1, freeze=everything), fresh(), bench(trained))


def test_training_that_diverges_is_said(trained: nn.Module) -> None:
    with pytest.raises(InputError, match="learning_rate"):
        finetune(Finetune(epochs=2, learning_rate=1e30), fresh(), bench(trained))


def pruned(trained: nn.Module, **config: object) -> Residual:
    model = fresh()
    model.load_state_dict(trained.state_dict())
    settings = {"ratio": 0.5, "round_to": 4, "epochs": 8, "batch": 32, "learning_rate": 5e-3}
    prune(Prune(**{**settings, **config}), model, bench(trained))  # type: ignore[arg-type]
    return model


def test_pruning_really_shrinks_and_recovers(trained: nn.Module) -> None:
    model = pruned(trained)
    assert parameters(model) < 0.45 * parameters(trained)
    assert model.stem.out_channels == model.left.out_channels == 8
    assert model.stem.out_channels % 4 == 0
    assert model.head.out_features == 4
    assert accuracy(model) > 0.8


def test_layers_to_keep_are_kept(trained: nn.Module) -> None:
    model = pruned(trained, keep=("right",), epochs=0)
    assert model.right.out_channels == 8
    assert model.stem.out_channels == 8
    with pytest.raises(InputError, match="no layer 'rigth'"):
        pruned(trained, keep=("rigth",), epochs=0)


def test_a_pruned_model_is_found_again_from_its_weights(trained: nn.Module, tmp_path: Path) -> None:
    model = pruned(trained, epochs=1)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save_model(model))
    again = fresh()
    load_weights(again, path, ((1, 8, 8),))
    again.eval()
    (images,) = rows().inputs
    with torch.no_grad():
        torch.testing.assert_close(again(images), model(images))
    assert Structure.of(again) == Structure.of(model)
    assert save_model(again) == save_model(model)
    with pytest.raises(InputError, match="which this model lacks"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), path, ((2,),))


def test_pruning_twice_is_remembered_as_one_structure(trained: nn.Module, tmp_path: Path) -> None:
    model = pruned(trained, ratio=0.25, epochs=0)
    prune(Prune(ratio=0.4, epochs=0), model, bench(trained))
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save_model(model))
    again = fresh()
    load_weights(again, path, ((1, 8, 8),))
    assert again.stem.out_channels == model.stem.out_channels < 12
