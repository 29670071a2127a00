"""Views and text beside an object's picture: no effect at first, ragged and padded as one by one, in any order."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.dino_encoder import DinoObjectEncoder
from pics_model.object_encoder import ConvObjectEncoder, nothing
from pics_model.side_tokens import Sides, camera_features

SIZE, WIDTH = 16, 12
TRUNK = {
    "model_type": "dinov2",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "patch_size": 8,
}
GIVEN = {"views": True, "tokens_per_view": 3, "text_channels": WIDTH}


def make(kind: str, trained: bool = False, **options: object) -> ConvObjectEncoder | DinoObjectEncoder:
    """An encoder; `trained` gives weight to what starts without."""
    torch.manual_seed(0)
    shared = {"resolution": SIZE, "code_channels": 16, **GIVEN, **options}
    made = ConvObjectEncoder(patch=4, width=8, **shared) if kind == "conv" else DinoObjectEncoder(TRUNK, **shared)
    if trained and made.sides is not None:
        nn.init.normal_(made.sides.join.to_out.weight, std=0.3)
        nn.init.normal_(made.sides.join.to_out.bias, std=0.3)
    return made


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def make_sides(counts: list[int], words: list[int], seed: int = 0, slack: int = 0) -> Sides:
    """`counts[i]` views and `words[i]` words of object i, padded by `slack` more than needed, with rubbish there."""
    most, longest = max(counts) + slack, max(words) + slack
    num = len(counts)
    return Sides(
        views=noise(num, most, 4, SIZE, SIZE, seed=seed),
        view_mask=torch.arange(most) < torch.tensor(counts)[:, None],
        cameras=noise(num, most, 3, seed=seed + 1) * 90,
        text=noise(num, longest, WIDTH, seed=seed + 2),
        text_mask=torch.arange(longest) < torch.tensor(words)[:, None],
    )


KINDS = pytest.mark.parametrize("kind", ["conv", "dino"])


@KINDS
def test_at_first_they_change_nothing_at_all(kind) -> None:
    encoder, plain = make(kind), make(kind, views=False, text_channels=0)
    plain.load_state_dict({name: v for name, v in encoder.state_dict().items() if not name.startswith("sides.")})
    images = noise(3, 4, SIZE, SIZE)
    alone = plain(images)
    assert torch.equal(encoder(images), alone)
    assert torch.equal(encoder(images, make_sides([2, 0, 3], [1, 4, 0])), alone)
    with torch.no_grad():
        assert torch.equal(encoder(images, make_sides([2, 0, 3], [1, 4, 0])), alone)


@KINDS
def test_gradients_arrive_at_once_and_then_everywhere(kind) -> None:
    encoder = make(kind)
    images, sides = noise(3, 4, SIZE, SIZE), make_sides([2, 0, 3], [1, 4, 0])
    for _ in range(2):
        encoder.zero_grad()
        encoder(images, sides).square().sum().backward()
        assert encoder.sides.join.to_out.weight.grad.abs().max() > 0
        with torch.no_grad():
            encoder.sides.join.to_out.weight -= 1e-3 * encoder.sides.join.to_out.weight.grad
    assert [name for name, weight in encoder.sides.named_parameters() if not weight.grad.abs().max() > 0] == []


@KINDS
@pytest.mark.parametrize(
    "sides",
    [None, Sides(), make_sides([0, 0], [0, 0]), make_sides([0, 0], [0, 0], slack=1)],
    ids=["none", "empty", "of no length", "masked"],
)
def test_without_any_the_code_stays_and_each_weight_takes_part(kind, sides) -> None:
    """Ranks of a run must agree on the weights that have gradients, whether their objects have views or not."""
    encoder = make(kind, trained=True)
    images = noise(2, 4, SIZE, SIZE)
    codes = encoder(images, sides)
    assert torch.equal(codes, encoder.encode(images))
    codes.sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in encoder.sides.parameters())
    with torch.no_grad():
        assert torch.equal(encoder(images, sides), encoder.encode(images))


@KINDS
def test_off_by_default_and_without_weights(kind) -> None:
    encoder = make(kind, views=False, text_channels=0)
    assert encoder.sides is None
    assert not any("sides" in name for name in encoder.state_dict())


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["conv", "dino"]),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4),
    st.integers(0, 2),
)
def test_ragged_is_as_one_by_one(kind, numbers, slack) -> None:
    encoder = make(kind, trained=True)
    counts, words = [n for n, _ in numbers], [n for _, n in numbers]
    images, sides = noise(len(counts), 4, SIZE, SIZE, seed=7), make_sides(counts, words, 1, slack)
    with torch.no_grad():
        together = encoder(images, sides)
        for i, (count, told) in enumerate(numbers):
            own = Sides()
            if count:
                own.views, own.cameras = sides.views[i : i + 1, :count], sides.cameras[i : i + 1, :count]
            if told:
                own.text = sides.text[i : i + 1, :told]
            alone = encoder(images[i : i + 1], own)
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-4)
            if count or told:
                assert not torch.allclose(alone, encoder(images[i : i + 1]), atol=1e-4)
            else:
                assert torch.equal(together[i], encoder.encode(images)[i])


@KINDS
def test_the_order_of_views_does_not_matter_and_their_cameras_do(kind) -> None:
    encoder = make(kind, trained=True)
    images, sides = noise(2, 4, SIZE, SIZE), make_sides([3, 3], [1, 1])
    order = torch.tensor([2, 0, 1])
    turned = replace(sides, views=sides.views[:, order], cameras=sides.cameras[:, order])
    with torch.no_grad():
        codes = encoder(images, sides)
        torch.testing.assert_close(encoder(images, turned), codes, atol=1e-5, rtol=1e-4)
        for other in (replace(turned, cameras=sides.cameras), replace(sides, cameras=None)):
            assert (encoder(images, other) - codes).abs().max() > 1e-4


@KINDS
def test_what_is_in_the_padding_does_not_matter(kind) -> None:
    encoder = make(kind, trained=True)
    images, sides = noise(2, 4, SIZE, SIZE), make_sides([2, 0], [1, 2], slack=2)
    other = replace(sides, **{name: getattr(sides, name).clone() for name in ("views", "cameras", "text")})
    other.views[~sides.view_mask] = torch.nan
    other.cameras[~sides.view_mask] = torch.nan
    other.text[~sides.text_mask] = torch.nan
    assert torch.equal(encoder(images, other), encoder(images, sides))


def test_a_camera_that_nobody_knows_has_no_angle() -> None:
    unknown = torch.tensor([[torch.nan] * 3])
    assert torch.equal(camera_features(unknown), torch.zeros(1, 12))
    half = camera_features(torch.tensor([[370.0, torch.nan, 1.0]]))
    torch.testing.assert_close(half, camera_features(torch.tensor([[10.0, torch.nan, 1.0]])))
    assert half[0, -3:].tolist() == [1, 0, 1]
    assert not half[0, 4:8].any()


@KINDS
@pytest.mark.parametrize("views", [True, False])
def test_either_alone(kind, views) -> None:
    encoder = make(kind, trained=True, views=views, text_channels=0 if views else WIDTH)
    sides = make_sides([1, 2], [2, 0])
    own = Sides(sides.views, sides.view_mask) if views else Sides(text=sides.text, text_mask=sides.text_mask)
    images = noise(2, 4, SIZE, SIZE)
    assert not torch.equal(encoder(images, own), encoder(images))


@KINDS
def test_it_saves_and_loads_with_all_of_it(kind, tmp_path) -> None:
    encoder = make(kind, trained=True)
    encoder.save_pretrained(tmp_path)
    again = type(encoder).from_pretrained(tmp_path)
    images, sides = noise(2, 4, SIZE, SIZE), make_sides([1, 2], [2, 0])
    torch.testing.assert_close(again(images, sides), encoder(images, sides), atol=1e-5, rtol=1e-4)


def test_bfloat16() -> None:
    encoder = make("conv", trained=True)
    images, sides = noise(2, 4, SIZE, SIZE), make_sides([1, 2], [2, 0])
    expected = encoder(images, sides)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(encoder(images, sides).float(), expected, atol=0.1, rtol=0.1)
    half = replace(sides, views=sides.views.bfloat16(), text=sides.text.bfloat16())
    cast = encoder.to(torch.bfloat16)(images.bfloat16(), half)
    torch.testing.assert_close(cast.float(), expected, atol=0.2, rtol=0.2)


@KINDS
@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (make_sides([1, 2, 1], [1, 1, 1]), "views of 3 objects beside pictures of 2"),
        (replace(make_sides([1, 2], [1, 1]), view_mask=torch.ones(2, 3, dtype=torch.bool)), "view_mask of shape"),
        (replace(make_sides([1, 2], [1, 1]), text=torch.zeros(2, 1, 9)), "text tokens of width 9; the model takes 12"),
        (Sides(text_mask=torch.ones(2, 1, dtype=torch.bool)), "text_mask of shape"),
    ],
)
def test_sides_that_do_not_fit(kind, sides, words) -> None:
    with pytest.raises(UserError, match=words):
        make(kind)(noise(2, 4, SIZE, SIZE), sides)


@KINDS
def test_what_a_model_does_not_take_is_not_passed_over(kind) -> None:
    encoder, sides = make(kind, views=False, text_channels=0), make_sides([1, 2], [1, 1])
    with pytest.raises(UserError, match="takes none"):
        encoder(noise(2, 4, SIZE, SIZE), Sides(views=sides.views))
    with pytest.raises(UserError, match="takes none"):
        encoder(noise(2, 4, SIZE, SIZE), Sides(text=sides.text))


@KINDS
@pytest.mark.parametrize("wrong", [{"tokens_per_view": 0}, {"text_channels": -1}])
def test_sizes_that_cannot_be(kind, wrong) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        make(kind, **wrong)


def test_nothing_is_black_and_transparent() -> None:
    picture = nothing(5, torch.zeros(1, dtype=torch.float64))
    assert picture.shape == (1, 4, 5, 5)
    assert picture.dtype == torch.float64
    assert (picture[:, :3] == -1).all()
    assert not picture[:, 3].any()
