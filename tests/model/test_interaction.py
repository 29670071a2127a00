"""The interaction block against a dense oracle (every expert on every token, then masks) and the published numbers."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from pics_model.interaction import InteractionBlock
from pics_model.objects import Interactions
from pics_model.placement import FREQUENCIES, PlacementBias, fourier, grid_centres, token_places
from pics_model.regions import Rows, route, to_grid
from tests.model.published import read_published

C, D, GRID = 32, 24, 6
M = 1 + 3 * 3


def make_block(overlap: str = "blend", placement: bool = False, seed: int = 0) -> InteractionBlock:
    torch.manual_seed(seed)
    stock = BasicTransformerBlock(C, 2, 16, cross_attention_dim=D)
    block = InteractionBlock(stock, D, overlap, tau=0.5, placement=placement)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in block.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return block.eval()


def make_objects(covered: Tensor, seed: int = 0) -> Interactions:
    torch.manual_seed(seed + 1)
    shape = covered.shape[:2]
    low = torch.rand(*shape, 2) * 0.4
    boxes = torch.cat([low, low + 0.3 + torch.rand(*shape, 2) * 0.3], -1)
    return Interactions(torch.randn(*shape, M, D), covered.unflatten(2, (GRID, GRID)), boxes)


def dense_attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Plain attention, [N, H] to [M, H], with bias [heads, N, M] on the logits."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
    logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def dense_place(bias: PlacementBias, box: Tensor) -> Tensor:
    """The placement kernel, term by term: [heads, N, M]."""
    weight, offset = bias.weight, bias.offset
    centres = (torch.arange(GRID) + 0.5) / GRID
    patches = (torch.arange(3) + 0.5) / 3
    out = torch.zeros(len(weight), GRID * GRID, M)
    for i, f in enumerate(FREQUENCIES):
        for axis, low, high in ((0, box[0], box[2]), (1, box[1], box[3])):
            place = ((centres - low) / (high - low)).clamp(-0.25, 1.25)
            query = place.repeat(GRID) if axis == 0 else place.repeat_interleave(GRID)
            query = query + offset[:, axis, None] / GRID / (high - low)
            key = patches.repeat(3) if axis == 0 else patches.repeat_interleave(3)
            kernel = (2 * math.pi * f * (query[:, :, None] - key)).cos()
            out[:, :, 1:] += weight[:, i, None, None] * kernel
    return out


def dense_interact(block: InteractionBlock, x: Tensor, objects: Interactions) -> Tensor:
    """What the experts add, one picture after the other, every expert on every token."""
    out = torch.zeros_like(x)
    for b in range(len(x)):
        masks = objects.regions[b].flatten(1)
        present = masks.any(1)
        count = masks.sum(0)
        query = block.gate_q(block.norm2g(x[b]))
        exclusive, answers, scores = [], [], []
        for k in range(masks.shape[0]):
            code, a2 = objects.codes[b, k], block.attn2
            box = objects.boxes[b, k]
            bias2 = dense_place(block.place2, box) if block.place2 else None
            biasg = dense_place(block.placeg, box) if block.placeg else None
            e = dense_attend(a2.to_q(block.norm2(x[b])), a2.to_k(code), a2.to_v(code), block.heads, bias2)
            exclusive.append(a2.to_out[0](e))
            a = dense_attend(query, block.k_proj(block.norm_c(code)), block.v_proj(code), 1, biasg)
            answers.append(a)
            scores.append((query * a).sum(-1) / math.sqrt(D))
        asked = torch.where(count >= 2, masks, present[:, None] if present.any() else torch.ones_like(masks))
        logits = (torch.stack(scores) / block.tau).masked_fill(~asked, -math.inf)
        blended = (logits.softmax(0)[..., None] * torch.stack(answers)).sum(0)
        if block.overlap == "blend":
            o = block.blend_out(blended)
        else:
            a2, bg = block.attn2, block.attn_bg
            o = a2.to_out[0](dense_attend(a2.to_q(block.norm2(x[b])), a2.to_k(blended), a2.to_v(blended), block.heads))
            o = bg.to_out[0](dense_attend(bg.to_q(block.norm2b(o)), bg.to_k(x[b]), bg.to_v(x[b]), block.heads))
        for k in range(masks.shape[0]):
            out[b] += exclusive[k] * (masks[k] & (count == 1))[:, None]
        out[b] += o * (count >= 2)[:, None]
    return out


@st.composite
def masks_of_a_batch(draw: st.DrawFn) -> Tensor:
    """Regions [3, K, N] of three pictures with up to 16 objects; some cover nothing, some all, some are the same."""
    objects = draw(st.one_of(st.integers(1, 4), st.integers(5, 16)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    share = torch.rand(3, objects, 1, generator=generator) * 1.4 - 0.2
    covered = torch.rand(3, objects, GRID * GRID, generator=generator) < share
    if objects > 1 and draw(st.booleans()):
        covered[0, 0] = covered[0, 1]
    for picture in range(3):
        covered[picture, draw(st.integers(1, objects)) :] = False  # ragged: the first few objects only
    return covered


@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
@pytest.mark.parametrize("placement", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@settings(max_examples=20, deadline=None)
@given(covered=masks_of_a_batch())
def test_routed_equals_dense(overlap: str, placement: bool, keep: bool, covered: Tensor) -> None:
    block, objects = make_block(overlap, placement), make_objects(covered)
    x = torch.randn(3, GRID * GRID, C)
    with torch.no_grad():
        expected = dense_interact(block, x, objects)
        objects.keep = keep
        for _ in range(1 + keep):  # once more with what was kept
            torch.testing.assert_close(block.interact(x, objects), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(covered=masks_of_a_batch())
def test_every_token_has_one_expert(covered: Tensor) -> None:
    routing, count = route(covered), covered.sum(1)
    end = count.numel()

    def listed(rows: Rows) -> list[int]:
        return sorted(rows.target[rows.target < end].tolist())

    assert listed(routing.exclusive) == (count == 1).flatten().nonzero().flatten().tolist()
    assert listed(routing.overlap) == (count >= 2).flatten().nonzero().flatten().tolist()
    for rows, asked in ((routing.exclusive, count == 1), (routing.members, count >= 2)):
        for r, mask in enumerate((covered & asked[:, None]).flatten(0, 1)):
            mine = rows.target.view_as(rows.index)[rows.row == r]
            first = r // covered.shape[1] * GRID * GRID
            assert sorted(mine[mine < end].tolist()) == (mask.nonzero().flatten() + first).tolist()
    real = routing.members.target < end
    assert torch.equal(routing.overlap.target[routing.owner[real]], routing.members.target[real])
    assert (routing.owner[~real] == routing.num_slots).all()


def test_regions_of_unlike_sizes_waste_little() -> None:
    covered = torch.zeros(1, 4, 4096, dtype=torch.bool)
    for k, (start, length) in enumerate(((0, 1000), (1000, 60), (1060, 60), (1120, 250))):
        covered[0, k, start : start + length] = True
    assert route(covered).exclusive.index.numel() < 1.3 * covered.sum()


@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
def test_background_tokens_stay_as_they_are(overlap: str) -> None:
    covered = torch.zeros(1, 2, GRID * GRID, dtype=torch.bool)
    covered[:, 0, 5:20] = covered[:, 1, 12:30] = True
    x = torch.randn(1, GRID * GRID, C)
    added = make_block(overlap, True).interact(x, make_objects(covered))
    outside = ~covered.any(1)[0]
    assert torch.equal(added[0, outside], torch.zeros(int(outside.sum()), C))
    assert (added[0, ~outside].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
def test_swapping_the_objects_changes_nothing(overlap: str) -> None:
    torch.manual_seed(3)
    objects = make_objects(torch.rand(2, 2, GRID * GRID) < 0.5)
    assert objects.boxes is not None
    swapped = Interactions(objects.codes.flip(1), objects.regions.flip(1), objects.boxes.flip(1))
    block, x = make_block(overlap, True), torch.randn(2, GRID * GRID, C)
    with torch.no_grad():
        torch.testing.assert_close(block.interact(x, objects), block.interact(x, swapped), atol=1e-5, rtol=0)


@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
def test_each_sample_uses_its_own_masks_and_padding_objects_change_nothing(overlap: str) -> None:
    torch.manual_seed(4)
    covered = torch.rand(3, 3, GRID * GRID) < 0.4
    covered[1, 2] = False  # the second picture has two objects
    objects, block, x = make_objects(covered), make_block(overlap, True), torch.randn(3, GRID * GRID, C)
    together = block.interact(x, objects)
    assert objects.boxes is not None
    for b, num in enumerate((3, 2, 3)):
        one = Interactions(
            objects.codes[b : b + 1, :num], objects.regions[b : b + 1, :num], objects.boxes[b : b + 1, :num]
        )
        torch.testing.assert_close(together[b : b + 1], block.interact(x[b : b + 1], one), atol=1e-5, rtol=0)


@pytest.mark.parametrize("overlap", ["blend", "blend_attend"])
@pytest.mark.parametrize("covered_share", [0.0, 0.5])
def test_every_weight_is_in_the_graph_even_without_any_overlap(overlap: str, covered_share: float) -> None:
    """DDP hangs on weights that a rank's batch happens not to use."""
    covered = torch.rand(2, 2, GRID * GRID) < covered_share
    block = make_block(overlap, True).train()
    kwargs = {"interactions": make_objects(covered)}
    block(torch.randn(2, GRID * GRID, C), cross_attention_kwargs=kwargs).sum().backward()
    assert [name for name, weight in block.named_parameters() if weight.grad is None] == []


def test_readings_say_who_covers_and_alpha_sums_to_one() -> None:
    torch.manual_seed(5)
    covered = torch.rand(2, 3, GRID * GRID) < 0.5
    for overlap in ("blend", "blend_attend"):
        objects = make_objects(covered)
        objects.readings = []
        make_block(overlap).interact(torch.randn(2, GRID * GRID, C), objects)
        (reading,) = objects.readings
        mine = covered.transpose(1, 2).flatten(0, 1)[reading.tokens]
        torch.testing.assert_close(reading.alpha.sum(1), torch.ones(len(reading.tokens)))
        assert (reading.alpha[~mine] == 0).all()


def test_placement_is_largest_at_the_matching_place() -> None:
    box = torch.tensor([[0.25, 0.0, 0.75, 1.0]])
    best = (token_places(box, 8).features[0] @ fourier(grid_centres(4)).T).argmax(1).view(8, 8)
    # Scene columns 2 to 5 hold the object picture's columns 0 to 3; two scene rows each of its rows.
    for row in range(8):
        assert best[row, 2:6].tolist() == [4 * (row // 2) + column for column in range(4)]


def test_nearest_grid_is_the_published_one() -> None:
    regions = torch.rand(2, 2, 32, 32) > 0.5
    expected = F.interpolate(regions.float(), size=(8, 8), mode="nearest").flatten(2).bool()
    assert torch.equal(to_grid(regions, 8), expected)
    assert torch.equal(to_grid(regions, 32), regions.flatten(2))


def test_published_block_is_reproduced(shared_reference) -> None:
    golden = load_file(shared_reference / "golden.safetensors")
    prefix = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."
    weights = read_published(shared_reference / "pics-tiny.ckpt")
    state = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix) and "blend_mlp" not in k}
    x, codes, masks = golden["block_x"], golden["block_codes"], golden["block_masks"]
    channels, width = x.shape[-1], codes.shape[-1]
    stock = BasicTransformerBlock(channels, channels // 16, 16, cross_attention_dim=width)
    block = InteractionBlock(stock, width, "blend_attend", tau=0.5, placement=False)
    block.load_state_dict(state)
    side = math.isqrt(x.shape[1])
    objects = Interactions(codes, masks.bool().unflatten(2, (side, side)), readings=[])
    with torch.no_grad():
        out = block(x, cross_attention_kwargs={"interactions": objects})
    assert (out - golden["block_out"]).abs().max() <= 1e-4
    (reading,) = objects.readings
    scores, alpha = golden["block_scores"].flatten(0, 1), golden["block_alpha"].flatten(0, 1)
    torch.testing.assert_close(reading.scores, scores[reading.tokens], atol=1e-4, rtol=0)
    torch.testing.assert_close(reading.alpha[:, 0], alpha[reading.tokens], atol=1e-4, rtol=0)
