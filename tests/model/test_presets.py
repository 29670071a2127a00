"""The shipped presets: they load, and `sd21` has the published sizes."""

import pytest
import torch

from pics_model.backbone import interaction_layers, num_parameters
from pics_model.interaction import InteractionBlock
from pics_model.presets import FOLDER, build, load_preset


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_shipped_preset_can_be_built(name) -> None:
    with torch.device("meta"):
        pipeline = build(load_preset(name))
    assert pipeline.config.preset == name
    assert interaction_layers(pipeline.backbone)


# Millions of parameters: all, and those of the interaction, of them those of the unused `blend_mlp`, which ours lacks.
PUBLISHED = {"unet": (1010.27, 144.36, 48.35), "controlnet": (431.79, 67.56, 23.18)}


@pytest.mark.parametrize("part", PUBLISHED)
def test_sd21_has_the_published_sizes(part) -> None:
    with torch.device("meta"):
        module = getattr(build(load_preset("sd21")).backbone, part)
    whole, added, unused = PUBLISHED[part]
    assert num_parameters(module) / 1e6 == pytest.approx(whole - unused, abs=0.011)
    blocks = [m for m in module.modules() if isinstance(m, InteractionBlock)]
    new = sum(num_parameters(getattr(b, n)) for b in blocks for n in NEW)
    assert new / 1e6 == pytest.approx(added - unused, abs=0.011)


NEW = ("norm2g", "gate_q", "norm_c", "k_proj", "v_proj", "norm2b", "attn_bg")
