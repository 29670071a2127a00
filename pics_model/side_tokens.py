"""What else is known of an object, joined to its code: other views of it (shape codes), and words.

Legend: N objects (of all pictures of a batch), V views of one, T tokens a view, L text tokens of width W, M code tokens
of width D. Every view goes through the object encoder; a resampler makes T tokens of its M. The text's tokens are
projected to D. The object's code then attends to all of them, [N, V * T + L, D], and adds what it finds:
code + out(attend(code, tokens)), where `out` starts at zero. So a model starts as the one without them, to the bit,
and blocks need not know of them. Neither the order of views nor padding matters.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pics_common.errors import UserError
from pics_model.inputs import Batch, object_pixels

HEAD_CHANNELS = 64
RESAMPLER_DEPTH = 2
WIDENING = 2  # of the resampler's feed-forward layers
NUM_CAMERA_FEATURES = 12
UNKNOWN = math.nan  # of a camera's values


@dataclass(slots=True)
class Sides:
    """What is given beside the pictures of N objects, padded; what is None is not given.

    `views` [N, V, 4, S, S] as object pictures are: RGB in [-1, 1] on white, alpha in [0, 1]. `view_mask` [N, V] bool
    says which are there (all, if None). `cameras` [N, V, 3] float are azimuth and elevation in degrees, relative to
    the object picture's own camera, and distance relative to its distance; NaN where unknown. `text` [N, L, W] float
    are hidden states of a text encoder, `text_mask` [N, L] bool says which are words (all, if None).
    """

    views: Tensor | None = None
    view_mask: Tensor | None = None
    cameras: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None

    def to(self, device: Any, non_blocking: bool = False) -> "Sides":
        """The same on another device; hooks that offload parts of a pipeline call this."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v if v is None else v.to(device, non_blocking=non_blocking) for k, v in values.items()}
        return Sides(**moved)


def sides_of(batch: Batch, text: Tensor | None = None, text_mask: Tensor | None = None) -> Sides | None:
    """What a batch brings beside its object pictures, N = B * K; None if nothing. `text` as in `Sides`."""
    if batch.views is None and text is None:
        return None
    sides = Sides(text=text, text_mask=text_mask)
    if batch.views is not None and batch.view_mask is not None and batch.cameras is not None:
        sides.views = object_pixels(batch.views.flatten(0, 1))
        sides.view_mask, sides.cameras = batch.view_mask.flatten(0, 1), batch.cameras.flatten(0, 1)
    return sides


class CrossAttention(nn.Module):
    """x [N, Q, D] attends to context [N, L, D]; what it finds, projected, [N, Q, D]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(channels // HEAD_CHANNELS, 1) if channels % HEAD_CHANNELS == 0 else 1
        self.norm, self.norm_context = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep` [N, L] bool says which context tokens are seen: at least one in each row."""
        context = self.norm_context(context)
        mapped = (self.to_q(self.norm(x)), self.to_k(context), self.to_v(context))
        query, key, value = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in mapped)
        mask = None if keep is None else keep[:, None, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.to_out(found.transpose(1, 2).flatten(2))
        return out


class ViewResampler(nn.Module):
    """The code of a view [n, M, D] and its camera [n, 3] -> T tokens [n, T, D]: learned queries attend to the code."""

    def __init__(self, channels: int, num_tokens: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_tokens, channels) / math.sqrt(channels))
        self.attentions = nn.ModuleList(CrossAttention(channels) for _ in range(RESAMPLER_DEPTH))
        wide = WIDENING * channels
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, wide), nn.GELU(), nn.Linear(wide, channels))
            for _ in range(RESAMPLER_DEPTH)
        )
        self.camera = nn.Linear(NUM_CAMERA_FEATURES, channels)

    def forward(self, codes: Tensor, cameras: Tensor) -> Tensor:
        tokens = self.queries.expand(len(codes), -1, -1)
        for attention, feed in zip(self.attentions, self.feeds, strict=True):
            tokens = tokens + attention(tokens, codes)
            tokens = tokens + feed(tokens)
        features = camera_features(cameras).to(self.camera.weight.dtype)
        return tokens + self.camera(features)[:, None]


def camera_features(cameras: Tensor) -> Tensor:
    """Azimuth, elevation (degrees) and distance [n, 3] -> [n, 12], float32: sines and cosines of the angle and its
    double, the distance's logarithm, and whether each is known. What is unknown (NaN) is zero."""
    known = ~cameras.isnan()
    angles = cameras[:, :2].nan_to_num().float() * (math.pi / 180)
    turns = torch.stack([angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()], -1)
    turns = (turns * known[:, :2, None]).flatten(1)
    distance = torch.where(known[:, 2], cameras[:, 2], 1).float().clamp(min=1e-3).log()
    return torch.cat([turns, distance[:, None], known.float()], 1)


class SideTokens(nn.Module):
    """Views and text, joined to the codes of their objects. Made by `make_side_tokens`."""

    def __init__(self, code_channels: int, views: bool, tokens_per_view: int, text_channels: int) -> None:
        super().__init__()
        self.resampler = ViewResampler(code_channels, tokens_per_view) if views else None
        self.text = nn.Linear(text_channels, code_channels) if text_channels else None
        self.join = CrossAttention(code_channels)
        for weight in self.join.to_out.parameters():
            nn.init.zeros_(weight)

    def forward(self, codes: Tensor, sides: Sides, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """codes [N, M, D] of N objects; `encode` is the encoder: pictures [n, 4, S, S] -> [n, M, D]."""
        parts = []
        if self.resampler is not None:
            parts.append(self._view_tokens(self.resampler, codes, sides, encode))
        if self.text is not None:
            parts.append(_text_tokens(self.text, codes, sides))
        tokens, keep = torch.cat([part for part, _ in parts], 1), torch.cat([mask for _, mask in parts], 1)
        rows = keep.any(1).nonzero().squeeze(1)
        # An object of which nothing is known beside its picture keeps its code, to the bit. Where that is so of all,
        # the answer for one is dropped: the weights take part in each step, as the ranks of a run must agree on which
        # do, and no kernel sees an empty batch.
        some = rows if len(rows) else rows.new_zeros(1)
        seen = keep[some]
        added = self.join(codes[some], tokens[some], seen | ~seen.any(1, keepdim=True))[: len(rows)]
        return codes.index_add(0, rows, added.to(codes.dtype))

    @staticmethod
    def _view_tokens(
        resampler: ViewResampler, codes: Tensor, sides: Sides, encode: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Tokens of all views [N, V * T, D] and which are there [N, V * T]; only views that are there are encoded."""
        num = len(codes)
        if sides.views is None or not sides.views.shape[1]:
            mask = torch.zeros(num, 1, dtype=torch.bool, device=codes.device)
            pictures, cameras = codes.new_zeros(0), codes.new_zeros(0, 3)
        else:
            mask = _all_of(sides.views, sides.view_mask)
            pictures = sides.views[mask]
            cameras = pictures.new_full((len(pictures), 3), UNKNOWN) if sides.cameras is None else sides.cameras[mask]
        # Not at all rather than with no picture: not every encoder takes a batch of none.
        seen = encode(pictures.to(codes.dtype)) if len(pictures) else codes.new_zeros(0, *codes.shape[1:])
        few = resampler(seen, cameras) if len(seen) else resampler(codes[:1], codes.new_zeros(1, 3))[:0]
        tokens = few.new_zeros(*mask.shape, *few.shape[1:])
        tokens[mask] = few
        return tokens.flatten(1, 2), mask.repeat_interleave(few.shape[1], 1)


def _text_tokens(project: nn.Linear, codes: Tensor, sides: Sides) -> tuple[Tensor, Tensor]:
    if sides.text is None or not sides.text.shape[1]:
        text = codes.new_zeros(len(codes), 1, project.in_features)
        return project(text), torch.zeros(len(codes), 1, dtype=torch.bool, device=codes.device)
    mask = _all_of(sides.text, sides.text_mask)
    return project(sides.text.to(project.weight.dtype).masked_fill(~mask[..., None], 0)), mask


def _all_of(values: Tensor, mask: Tensor | None) -> Tensor:
    return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if mask is None else mask


def make_side_tokens(code_channels: int, views: bool, tokens_per_view: int, text_channels: int) -> SideTokens | None:
    """None, and no weights, for an encoder that takes neither views nor text. Raises `UserError` for bad sizes."""
    if views and tokens_per_view < 1:
        raise UserError(f"encoder: tokens_per_view {tokens_per_view}; expected 1 or more")
    if text_channels < 0:
        raise UserError(f"encoder: text_channels {text_channels}; expected 0, or the width of a text encoder")
    if not views and not text_channels:
        return None
    return SideTokens(code_channels, views, tokens_per_view, text_channels)


def add_sides(
    part: SideTokens | None, codes: Tensor, sides: Sides | None, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """Codes [N, M, D] with what `sides` says of their objects. Raises `UserError` for what a model cannot take."""
    if sides is not None:
        _check(part, codes, sides)
    if part is None or (sides is None and not torch.is_grad_enabled()):
        return codes
    joined: Tensor = part(codes, sides or Sides(), encode)
    return joined


def _check(part: SideTokens | None, codes: Tensor, sides: Sides) -> None:
    resampler, text = (None, None) if part is None else (part.resampler, part.text)
    if sides.views is not None and resampler is None:
        raise UserError("views were given to a model that takes none; its encoder has `views: false`")
    if sides.text is not None and text is None:
        raise UserError("text was given to a model that takes none; its encoder has `text_channels: 0`")
    num = len(codes)
    for name, values in ((f.name, getattr(sides, f.name)) for f in fields(sides)):
        if values is not None and len(values) != num:
            raise UserError(f"{name} of {len(values)} objects beside pictures of {num}; expected as many")
    if text is not None and sides.text is not None and sides.text.shape[-1] != text.in_features:
        raise UserError(f"text tokens of width {sides.text.shape[-1]}; the model takes {text.in_features}")
    for name, values, mask in (
        ("view_mask", sides.views, sides.view_mask),
        ("cameras", sides.views, sides.cameras),
        ("text_mask", sides.text, sides.text_mask),
    ):
        if mask is not None and (values is None or mask.shape[:2] != values.shape[:2]):
            shape = None if values is None else list(values.shape[:2])
            raise UserError(f"{name} of shape {list(mask.shape)} beside values of {shape}; expected one for each")
