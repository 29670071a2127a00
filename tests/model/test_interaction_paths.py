"""The block under torch.compile, in half precision, in PixArt's place, with a learned tau; and what it never makes."""

import pytest
import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pics_model.backbone import replace_blocks
from pics_model.interaction import InteractionBlock
from pics_model.objects import Interactions

C, D, M, GRID = 32, 24, 10, 16
FORMS = ("blend", "blend_attend")


def make_block(overlap: str, **more) -> InteractionBlock:
    torch.manual_seed(0)
    stock = BasicTransformerBlock(C, 2, 16, cross_attention_dim=D)
    return InteractionBlock(stock, D, overlap, tau=0.5, placement=False, **more)  # type: ignore[arg-type]


def make_objects(seed: int, keep: bool = False, num_objects: int = 3, pictures: int = 2) -> Interactions:
    """Boxes at random places, of random sizes."""
    generator = torch.Generator().manual_seed(seed)
    regions = torch.zeros(pictures, num_objects, GRID, GRID, dtype=torch.bool)
    for picture in regions:
        for region in picture:
            x, y, width, height = torch.randint(2, GRID // 2, (4,), generator=generator).tolist()
            region[y : y + height, x : x + width] = True
    return Interactions(torch.randn(pictures, num_objects, M, D, generator=generator), regions, keep=keep)


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("overlap", FORMS)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.usefixtures("fresh_compiler")
def test_the_block_compiles_whole_and_not_anew_for_other_masks(overlap: str, keep: bool) -> None:
    block = make_block(overlap).train(not keep)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    for seed in range(8):
        objects, x = make_objects(seed, keep), torch.randn(2, GRID * GRID, C)
        objects.routing(GRID * GRID)
        with torch.set_grad_enabled(not keep):
            block.prepare(objects)
            out = compiled(x, cross_attention_kwargs={"interactions": objects})
            torch.testing.assert_close(out, block(x, cross_attention_kwargs={"interactions": objects}))
        if seed == 3:  # by then it has seen which sizes vary
            known = graphs["unique_graphs"]
    assert 1 <= known <= 3
    assert graphs["unique_graphs"] == known, "new masks made it compile again"


@pytest.mark.parametrize("overlap", FORMS)
@pytest.mark.usefixtures("fresh_compiler")
def test_the_default_compiler_gives_the_same(overlap: str) -> None:
    block, objects = make_block(overlap).eval(), make_objects(1, keep=True)
    x = torch.randn(2, GRID * GRID, C)
    objects.routing(GRID * GRID)
    with torch.no_grad():
        block.prepare(objects)
        expected = block(x, cross_attention_kwargs={"interactions": objects})
        found = torch.compile(block, fullgraph=True)(x, cross_attention_kwargs={"interactions": objects})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.most = max(self.most, value.numel())
        return out


@pytest.mark.parametrize("overlap", FORMS)
@pytest.mark.parametrize("keep", [False, True])
def test_no_matrix_of_tokens_by_tokens_is_ever_made(overlap: str, keep: bool) -> None:
    side = 48
    tokens = side * side
    block, x = make_block(overlap).train(not keep), torch.randn(1, tokens, C, requires_grad=not keep)
    regions = torch.ones(1, 2, side, side, dtype=torch.bool)
    objects = Interactions(torch.randn(1, 2, M, D), regions, keep=keep)
    with Largest() as largest, torch.set_grad_enabled(not keep):
        out = block(x, cross_attention_kwargs={"interactions": objects})
        if not keep:
            out.sum().backward()
    assert largest.most < tokens * tokens / 4


@pytest.mark.parametrize("overlap", FORMS)
def test_half_precision_is_near_in_both_paths(overlap: str) -> None:
    block, x = make_block(overlap).eval(), torch.randn(2, GRID * GRID, C)
    with torch.no_grad():
        exact = block.interact(x, make_objects(2))
        half = block.to(torch.bfloat16)
        for keep in (False, True):
            objects = make_objects(2, keep)
            objects.codes = objects.codes.to(torch.bfloat16)
            found = half.interact(x.to(torch.bfloat16), objects)
            assert found.dtype == torch.bfloat16
            assert (found.float() - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("overlap", FORMS)
def test_a_kept_path_follows_autocast(overlap: str) -> None:
    block, x = make_block(overlap).eval(), torch.randn(2, GRID * GRID, C)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain, kept = (block.interact(x, make_objects(3, keep)) for keep in (False, True))
    assert (plain.float() - kept.float()).abs().max() < 0.05 * plain.float().abs().max()


def test_tau_is_learned_on_request_and_only_then_saved() -> None:
    assert "log_tau" not in make_block("blend").state_dict()
    for overlap in FORMS:
        block = make_block(overlap, learn_tau=True)
        block(torch.randn(2, GRID * GRID, C), cross_attention_kwargs={"interactions": make_objects(4)}).sum().backward()
        assert block.log_tau.grad.abs() > 0
        fixed = make_block(overlap)
        x = torch.randn(2, GRID * GRID, C)
        with torch.no_grad():
            torch.testing.assert_close(block.interact(x, make_objects(4)), fixed.interact(x, make_objects(4)))
            block.log_tau.fill_(-3.0)
            assert not torch.allclose(block.interact(x, make_objects(4)), fixed.interact(x, make_objects(4)), atol=1e-3)


def test_in_pixarts_place_it_does_what_pixart_does_where_one_object_covers_all() -> None:
    """Then the exclusive expert is the stock cross-attention to that object's code."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": C, "caption_channels": None}
    stock = PixArtTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, sample_size=GRID, patch_size=1, **sizes
    )
    for name, weight in stock.named_parameters():
        if "scale_shift_table" in name or "adaln_single.linear" in name:
            torch.nn.init.normal_(weight, std=0.3)
    latent, codes, t = torch.randn(2, 4, GRID, GRID), torch.randn(2, 1, M, C), torch.tensor([3, 700])
    kwargs = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}, "return_dict": False}
    objects = Interactions(codes, torch.ones(2, 1, GRID, GRID, dtype=torch.bool))
    with torch.no_grad():
        expected = stock(latent, codes[:, 0], t, **kwargs)[0]
        assert replace_blocks(stock, C, "blend", 0.5, placement=False) == 2
        found = stock(latent, codes[:, 0], t, cross_attention_kwargs={"interactions": objects}, **kwargs)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("overlap", FORMS)
def test_readings_are_the_same_in_both_paths(overlap: str) -> None:
    block, x = make_block(overlap).eval(), torch.randn(2, GRID * GRID, C)
    readings = []
    with torch.no_grad():
        for keep in (False, True):
            objects = make_objects(6, keep)
            objects.readings = []
            block.interact(x, objects)
            readings += objects.readings
    plain, kept = readings
    assert torch.equal(plain.tokens, kept.tokens)
    torch.testing.assert_close(plain.alpha, kept.alpha, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.scores, kept.scores, atol=1e-5, rtol=1e-5)
    covered = make_objects(6).regions.flatten(2).transpose(1, 2).flatten(0, 1)[plain.tokens]
    assert torch.equal(plain.scores.isfinite(), covered)
