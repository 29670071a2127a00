"""The optimiser: Muon on what is a matrix, and a memory that goes to a checkpoint and comes back bit by bit."""

import pytest
import torch
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.muon import orthogonal
from pics_model.optimizer import Optimizer


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(8 * 16, 4))
    model[1].bias.requires_grad_(False)
    return model


def make_optimizer(model: nn.Module, kind: str = "muon") -> Optimizer:
    return Optimizer(model, kind, learning_rate=1e-2, matrix_rate=0.05, weight_decay=0.1)  # type: ignore[arg-type]


def run(model: nn.Module, optimizer: Optimizer, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        pictures = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        model(pictures).square().mean().backward()
        optimizer.step(1 - step / 10)


def copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_muon_on_a_kernel_is_muon_on_its_matrix() -> None:
    model = make_model()
    kernel = model[0].weight
    flat = nn.Parameter(kernel.detach().clone().flatten(1))
    plain = torch.optim.Muon([flat], 0.05, weight_decay=0.1)
    optimizer = make_optimizer(model)
    for factor in (1.0, 0.5):
        before = kernel.detach().clone()
        model(torch.randn(5, 3, 6, 6)).square().mean().backward()
        flat.grad = kernel.grad.flatten(1).clone()
        plain.param_groups[0]["lr"] = 0.05 * factor
        plain.step()
        optimizer.step(factor)
        # torch's rounds to bfloat16 at other places: one part in a hundred of the step.
        moved = (kernel - before).norm()
        assert moved > 0
        assert (kernel.flatten(1) - flat).norm() < 0.02 * moved
        with torch.no_grad():
            flat.copy_(kernel.flatten(1))


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 5, 40), (3, 40, 5)])
def test_steps_are_nearly_orthogonal(shape) -> None:
    torch.manual_seed(0)
    steps = orthogonal(torch.randn(shape) * 1e-3)
    assert steps.shape == shape
    values = torch.linalg.svdvals(steps.float())
    assert values.min() > 0.3
    assert values.max() < 1.5


def test_vectors_go_to_adamw_and_all_gradients_are_forgotten() -> None:
    model, other = make_model(), make_model()
    for one, kind in ((model, "muon"), (other, "adamw")):
        run(one, make_optimizer(one, kind), 1)
    assert torch.equal(model[0].bias, other[0].bias)
    assert not torch.equal(model[0].weight, other[0].weight)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_frozen_weights_are_left_alone(kind) -> None:
    model = make_model()
    before = copy(model.state_dict())
    optimizer = make_optimizer(model, kind)
    run(model, optimizer, 3)
    still = {name for name, weight in model.state_dict().items() if torch.equal(weight, before[name])}
    assert still == {"1.bias"}
    assert not [name for name in optimizer.tensors() if name.startswith("1.bias")]


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_what_it_remembers_comes_back_and_the_next_steps_are_the_same(kind) -> None:
    model = make_model()
    optimizer = make_optimizer(model, kind)
    run(model, optimizer, 3)
    weights, memory = copy(model.state_dict()), copy(optimizer.tensors())
    run(model, optimizer, 3, start=3)
    again = make_model(seed=1)
    again.load_state_dict(weights)
    resumed = make_optimizer(again, kind)
    resumed.load(memory, "x")
    run(again, resumed, 3, start=3)
    assert same(again.state_dict(), model.state_dict())
    assert same(resumed.tensors(), optimizer.tensors())


@pytest.mark.parametrize(("wrote", "reads"), [("adamw", "muon"), ("muon", "adamw")])
def test_the_memory_of_the_other_kind_is_refused(wrote, reads) -> None:
    model = make_model()
    optimizer = make_optimizer(model, wrote)
    run(model, optimizer, 1)
    with pytest.raises(UserError, match=rf"checkpoint x: .*`--optimizer {wrote}`") as caught:
        make_optimizer(model, reads).load(optimizer.tensors(), "x")
    assert "\n" not in str(caught.value)


def test_the_memory_of_another_model_is_refused() -> None:
    model = make_model()
    optimizer = make_optimizer(model)
    run(model, optimizer, 1)
    lacking = {name: tensor for name, tensor in optimizer.tensors().items() if not name.startswith("3.weight")}
    for memory in (lacking, {}, optimizer.tensors() | {"4.weight:momentum_buffer": torch.zeros(1)}):
        with pytest.raises(UserError, match=r"checkpoint x: .*`[0-9]\.(weight|bias)`"):
            make_optimizer(model).load(memory, "x")
