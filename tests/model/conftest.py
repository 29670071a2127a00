"""A preset small enough to train in a blink, and shards to train it on."""

from pathlib import Path

import pytest

from tests.model.shards_for_tests import write_shards

MINI = """
name: mini
guidance: 1.0
steps: 3
autoencoder: {patch: 4}
backbone:
  latent_channels: 48
  block_out_channels: [16, 32]
  attention_levels: [true, true]
  layers_per_block: 1
  head_channels: 8
  norm_num_groups: 8
  code_channels: 16
  hint_channels: [8, 8, 16]
  overlap: blend
  tau: 0.5
  placement: true
encoder: {resolution: 16, patch: 4, code_channels: 16, width: 8}
framing: {resolution: 32, object_resolution: 16}
schedule: {beta_schedule: squaredcos_cap_v2, prediction_type: sample, timestep_spacing: trailing}
"""


@pytest.fixture(scope="session")
def mini(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preset") / "mini.yaml"
    path.write_text(MINI)
    return path


@pytest.fixture(scope="session")
def mini_shards(tmp_path_factory) -> Path:
    """Seven samples for training in two shards, three for validation in one."""
    counts = {"train-000000.tar": 4, "train-000001.tar": 3, "val-000000.tar": 3}
    return write_shards(tmp_path_factory.mktemp("mini"), counts, size=(48, 64))
