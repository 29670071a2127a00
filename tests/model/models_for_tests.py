"""Models of a few thousand weights, one of each make: pixels and U-Net, autoencoder and DINOv2, flow transformer."""

from pathlib import Path
from typing import Any

import torch
import yaml

from pics_model.pipeline import PICSPipeline
from pics_model.presets import Preset, build

# As `sd21` in all that is not size: latents of an autoencoder, DINOv2, the published form of the overlap expert.
LATENT = """
name: latent
guidance: 3.0
steps: 3
autoencoder:
  kind: kl
  block_out_channels: [8, 8]
  down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D]
  up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D]
  norm_num_groups: 4
  latent_channels: 4
backbone:
  kind: unet
  latent_channels: 4
  block_out_channels: [16, 32]
  attention_levels: [true, false]
  layers_per_block: 1
  head_channels: 8
  norm_num_groups: 8
  code_channels: 16
  hint_channels: [8, 16]
  overlap: blend_attend
  tau: 0.5
  placement: false
encoder:
  kind: dino
  resolution: 28
  code_channels: 16
  trunk: {model_type: dinov2, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 14}
framing: {resolution: 32, frame: photo, object_resolution: 28}
schedule: {kind: ddim, beta_schedule: scaled_linear, beta_start: 0.00085, beta_end: 0.012, prediction_type: epsilon}
"""

FLOW = """
name: flow-mini
guidance: 1.0
steps: 3
autoencoder: {kind: patches, patch: 4}
backbone:
  kind: transformer
  latent_channels: 48
  sample_size: 8
  num_layers: 2
  num_heads: 2
  head_channels: 16
  code_channels: 16
encoder: {kind: conv, resolution: 16, patch: 4, code_channels: 16, width: 8}
framing: {resolution: 32, object_resolution: 16}
schedule: {kind: flow}
"""


def write_preset(folder: Path, text: str) -> Path:
    """A preset's file."""
    path = folder / f"{yaml.safe_load(text)['name']}.yaml"
    path.write_text(text)
    return path


def pipeline_of(text: str, seed: int = 0, **backbone: Any) -> PICSPipeline:
    """The untrained model of a preset's text."""
    values = yaml.safe_load(text)
    torch.manual_seed(seed)
    pipeline = build(Preset(**(values | {"backbone": values["backbone"] | backbone})))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
