"""What a step draws for each sample, dropout of objects and of codes, and the loss that comes of it."""

import math
from dataclasses import replace

import pytest
import torch

from pics_model.denoising import DenoisingLoss, Draws, draw, leave_out, without_sides
from pics_model.inputs import Batch, Inputs, collate, hint
from pics_model.presets import build, load_preset
from pics_model.stream import ShardStream

SHAPE = torch.Size((2, 4, 4))
MANY = torch.arange(20_000)


@pytest.fixture(scope="module")
def pipeline(mini):
    torch.manual_seed(0)
    return build(load_preset(str(mini)))


@pytest.fixture(scope="module")
def batch(mini_shards, pipeline) -> Batch:
    return next(iter(ShardStream(mini_shards, pipeline.framing, batch_size=4, num_workers=0).batches()))


def objects(number: int, seeds: torch.Tensor) -> torch.Tensor:
    return torch.full((len(seeds),), number)


def test_each_sample_draws_from_its_own_seed() -> None:
    seeds, num = torch.tensor([5, 6, 7, 5]), torch.tensor([2, 3, 1, 2])
    settings = ("published", 0.5, 0.5)
    drawn, alone = draw(seeds, num, SHAPE, *settings), draw(seeds[1:2], num[1:2], SHAPE, *settings)
    for name in ("noise", "places", "hidden", "left_out"):
        values = getattr(drawn, name)
        assert torch.equal(values[0], values[3])
        assert torch.equal(getattr(alone, name)[0], values[1])
    assert not torch.equal(drawn.noise[0], drawn.noise[1])


def test_noise_is_normal() -> None:
    noise = draw(MANY[:2000], objects(2, MANY[:2000]), SHAPE).noise
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert abs(noise.std() - 1) < 0.02
    neighbours = noise[:-1].flatten(1) * noise[1:].flatten(1)
    assert abs(neighbours.mean()) < 4 / math.sqrt(neighbours.numel())


def test_one_setting_does_not_shift_what_another_draws() -> None:
    seeds, num = MANY[:200], objects(2, MANY[:200])
    plain = draw(seeds, num, SHAPE)
    other = draw(seeds, num, SHAPE, "uniform", 0.9, 0.4)
    assert torch.equal(plain.noise, other.noise)
    assert torch.equal(plain.places, other.places)
    assert not plain.hidden.any()
    assert (plain.left_out == -1).all()
    assert torch.equal(draw(seeds, num, SHAPE, "uniform", 0.0, 0.4).left_out, other.left_out)


def test_dropouts_have_their_chances_and_know_nothing_of_each_other() -> None:
    drawn = draw(MANY, objects(2, MANY), torch.Size((1,)), "uniform", 0.1, 0.3)
    hidden, left = drawn.hidden.double(), (drawn.left_out >= 0).double()
    assert abs(hidden.mean() - 0.1) < 0.01
    assert abs(left.mean() - 0.3) < 0.015
    for a, b in ((hidden, left), (hidden, drawn.places.double()), (left, drawn.places.double())):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.03


@pytest.mark.parametrize("number", [2, 3, 5])
def test_every_object_is_left_out_alike(number) -> None:
    left_out = draw(MANY, objects(number, MANY), torch.Size((1,)), object_dropout=1.0).left_out
    counts = torch.bincount(left_out, minlength=number) / len(MANY)
    assert len(counts) == number
    assert (counts - 1 / number).abs().max() < 0.015


def test_a_lone_object_is_never_left_out_and_samples_of_a_batch_may_differ() -> None:
    num = torch.tensor([1, 2, 1, 4] * 500)
    left_out = draw(MANY[:2000], num, torch.Size((1,)), object_dropout=1.0).left_out
    assert (left_out[num == 1] == -1).all()
    assert (left_out[num > 1] >= 0).all()
    assert (left_out < num).all()
    assert left_out[num == 4].max() == 3


def no_draws(batch: Batch, pipeline, left_out: list[int], hidden: bool = False) -> Draws:
    generator = torch.Generator().manual_seed(1)
    count = len(batch.keys)
    noise = torch.randn(count, *pipeline.latent_shape, generator=generator)
    return Draws(
        noise, torch.full((count,), 0.5), torch.full((count,), hidden), torch.tensor(left_out), torch.zeros(count) > 0
    )


def test_an_object_left_out_has_no_hole(batch) -> None:
    regions = leave_out(batch.regions, torch.tensor([0, 1, -1, -1]))
    assert not regions[0, 0].any()
    assert torch.equal(regions[0, 1], batch.regions[0, 1])
    assert torch.equal(regions[2:], batch.regions[2:])
    shown = hint(batch.target, regions, batch.valid)[0]
    only = batch.regions[0, 0] & ~batch.regions[0, 1]
    assert only.any()
    photo = batch.target[0].permute(2, 0, 1).float() / 127.5 - 1
    assert torch.equal(shown[:3, only], photo[:, only])
    assert (shown[3, only] == 0).all()


def test_an_object_left_out_is_as_if_it_had_never_been_there(mini_shards, pipeline) -> None:
    """The loss is that of a sample which never had it: its code does not count either."""
    samples = ShardStream(mini_shards, pipeline.framing, batch_size=4, num_workers=0).samples
    inputs = [samples[i] for i in range(4)]
    one = collate([drop_object(each, 0) for each in inputs])
    both = collate(inputs)
    module = DenoisingLoss(pipeline, 0.1)
    with torch.no_grad():
        left = module(both, no_draws(both, pipeline, [0] * 4))
        never = module(one, no_draws(one, pipeline, [-1] * 4))
        torch.testing.assert_close(left, never)
        assert module(both, no_draws(both, pipeline, [-1] * 4)) != left


def drop_object(inputs: Inputs, which: int) -> Inputs:
    kept = [k for k in range(len(inputs.objects)) if k != which]
    names = ("objects", "boxes", "object_boxes", "regions", "silhouettes", "pixel_boxes")
    return replace(inputs, **{name: getattr(inputs, name)[kept] for name in names})


def test_hidden_samples_do_not_depend_on_their_objects(batch, pipeline) -> None:
    module = DenoisingLoss(pipeline, 0.1)
    other = batch.to("cpu")
    other.objects = 255 - batch.objects
    with torch.no_grad():
        for hidden in (True, False):
            draws = no_draws(batch, pipeline, [-1] * 4, hidden)
            assert torch.equal(module(batch, draws), module(other, draws)) == hidden


def test_min_snr_weighs_whole_pictures(batch, pipeline) -> None:
    draws = no_draws(batch, pipeline, [-1] * 4)
    kept = pipeline.scheduler.alphas_cumprod[500]
    snr = (kept / (1 - kept)).item()
    with torch.no_grad():
        plain, weighed = DenoisingLoss(pipeline, 0.1)(batch, draws), DenoisingLoss(pipeline, 0.1, 5.0)(batch, draws)
    assert weighed.item() == pytest.approx(min(snr, 5) * plain.item(), rel=1e-4)  # this preset says the picture


def test_a_bare_sample_has_neither_views_nor_words(batch) -> None:
    bare = draw(MANY, objects(2, MANY), SHAPE, side_dropout=0.3).bare
    assert abs(bare.float().mean() - 0.3) < 0.02
    shape = (*batch.objects.shape[:2], 3)
    given = replace(batch, view_mask=torch.ones(shape, dtype=torch.bool), texts=[["a dog"] * shape[1]] * shape[0])
    out = torch.tensor([True, False, False, True])
    made = without_sides(given, out)
    assert torch.equal(made.view_mask.any(2).any(1), ~out)
    assert [any(words) for words in made.texts] == [False, True, True, False]
    assert torch.equal(given.view_mask, torch.ones(shape, dtype=torch.bool))
    assert without_sides(batch, out).view_mask is None
