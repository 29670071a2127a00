"""U-Net and ControlNet with interaction blocks: what they refuse, and that everything in them learns."""

import pytest
import torch

from pics_common.errors import UserError
from pics_model.backbone import Backbone, interaction_layers
from pics_model.objects import Interactions


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone(
        latent_channels=4, block_out_channels=(16, 32), head_channels=8, norm_num_groups=8, code_channels=12,
        hint_channels=(4, 8), transformer_depth=2,
    )  # fmt: skip


def objects(**changes) -> Interactions:
    torch.manual_seed(1)
    given = {
        "codes": torch.randn(2, 3, 5, 12),
        "regions": torch.rand(2, 3, 16, 16) < 0.6,
        "boxes": torch.tensor([0.1, 0.1, 0.8, 0.9]).expand(2, 3, 4),
    }
    return Interactions(**(given | changes))


def run(backbone: Backbone, given: Interactions) -> torch.Tensor:
    torch.manual_seed(2)
    return backbone(torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.rand(2, 4, 16, 16), given)


def test_layers_are_named_in_the_order_in_which_they_run(backbone) -> None:
    ran: list[str] = []
    hooks = [
        backbone.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
        for name in interaction_layers(backbone)
    ]
    with torch.no_grad():
        run(backbone, objects())
    for hook in hooks:
        hook.remove()
    assert ran == interaction_layers(backbone)
    assert len(ran) == 2 * (2 + 1 + 2 + 1 + 4)  # depth 2: ControlNet down and middle, U-Net down, middle, up


def test_the_noisy_latent_does_not_enter_the_controlnet(backbone) -> None:
    kwargs = {"cross_attention_kwargs": {"interactions": objects()}, "return_dict": False}
    hint, codes = torch.rand(2, 4, 16, 16), torch.randn(2, 15, 12)
    with torch.no_grad():
        a, b = (backbone.controlnet(torch.randn(2, 4, 8, 8), 5, codes, hint, **kwargs) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(a[0], b[0], strict=True))


def test_gradient_checkpointing_changes_no_gradient(backbone) -> None:
    grads = []
    for turn_on in (False, True):
        backbone.enable_gradient_checkpointing() if turn_on else backbone.disable_gradient_checkpointing()
        backbone.zero_grad()
        backbone.train()
        run(backbone, objects()).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None})
    backbone.disable_gradient_checkpointing()
    frozen = {"controlnet.conv_in.weight", "controlnet.conv_in.bias"}
    assert {name for name, _ in backbone.named_parameters()} - set(grads[0]) == frozen
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-6, rtol=1e-5)


WRONG = {
    "width": ({"codes": torch.randn(2, 3, 5, 11)}, r"codes have shape \[2, 3, 5, 11\]; expected .* 12\]"),
    "pictures": ({"codes": torch.randn(1, 3, 5, 12)}, "expected 2 pictures"),
    "none": ({"codes": torch.randn(2, 0, 5, 12)}, "an object or more"),
    "regions": ({"regions": torch.ones(2, 2, 16, 16, dtype=torch.bool)}, r"regions are torch.bool of shape \[2, 2, "),
    "not square": ({"regions": torch.ones(2, 3, 16, 8, dtype=torch.bool)}, "a square for each code"),
    "not bool": ({"regions": torch.ones(2, 3, 16, 16)}, "regions are torch.float32"),
    "no boxes": ({"boxes": None}, "boxes are absent"),
}


@pytest.mark.parametrize("name", WRONG)
def test_objects_that_do_not_fit_are_named(backbone, name) -> None:
    changes, said = WRONG[name]
    with pytest.raises(UserError, match=said) as error:
        run(backbone, objects(**changes))
    assert "\n" not in str(error.value)


def test_all_blocks_share_a_few_compiled_graphs_whatever_the_picture(backbone) -> None:
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    with torch.no_grad():
        expected = run(backbone, objects())
        backbone.compile_repeated_blocks(fullgraph=True, backend="aot_eager")
        for keep in (False, True, True):
            torch.testing.assert_close(run(backbone, objects(keep=keep)), expected, atol=1e-5, rtol=1e-5)
    # Of 20 blocks, two widths on two grids, in training and in inference.
    assert graphs["unique_graphs"] == 4
    for layer in interaction_layers(backbone):
        backbone.get_submodule(layer)._compiled_call_impl = None
    torch._dynamo.reset()
