"""Tiny checkpoints in the true layouts: SAM and SAM 2 as transformers saves them, U2-Net as rembg's ONNX files.

Torch is imported only by those that need it, since rembg's can be tested without.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def random_sam(folder: Path, side: int = 128, seed: int = 0) -> Path:
    """A SAM of random weights: its masks depend on all of photo and prompt, and mean nothing."""
    model = _sam(side=side, patch=16, seed=seed)
    return _save(model, folder, side)


def bright_sam(folder: Path, side: int = 256) -> Path:
    """A SAM whose weights are set by hand so that it finds what is bright, at whatever prompt, and is sure of it.

    Each patch of 4 x 4 pixels is bright or dark; a low-resolution mask has a value for each.
    """
    import torch

    model = _sam(side=side, patch=4, seed=0)
    weights = model.state_dict()
    for name, value in weights.items():
        if "norm" not in name:
            value.zero_()
    vision, decoder = "vision_encoder.", "mask_decoder."
    # Two channels, brightness above the middle and below it, pass through all that follows.
    weights[vision + "patch_embed.projection.weight"][0] = 1 / 48
    weights[vision + "patch_embed.projection.weight"][1] = -1 / 48
    for channel in (0, 1):
        weights[vision + "neck.conv1.weight"][channel, channel] = 1
        weights[vision + "neck.conv2.weight"][channel, channel, 1, 1] = 1
        weights[decoder + "upscale_conv1.weight"][channel, channel] = 1
        weights[decoder + "upscale_conv2.weight"][channel, channel] = 1
    for name, value in weights.items():
        if name.startswith(decoder + "output_hypernetworks_mlps") and name.endswith("proj_out.bias"):
            value[:2] = torch.tensor([5.0, -5.0])
    weights[decoder + "iou_prediction_head.proj_out.bias"][:] = torch.tensor([0.90, 0.92, 0.94, 0.91])
    model.load_state_dict(weights)
    return _save(model, folder, side)


def _sam(side: int, patch: int, seed: int) -> Any:
    import torch
    from transformers import SamConfig, SamModel

    torch.manual_seed(seed)
    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_ratio": 2.0,
            "image_size": side,
            "patch_size": patch,
            "window_size": 4,
            "global_attn_indexes": [1] if patch == 16 else [],
            "num_pos_feats": 16,
            "initializer_range": 0.3,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": side, "patch_size": patch},
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        initializer_range=0.3,
    )
    return SamModel(config).eval()


def _save(model: Any, folder: Path, side: int) -> Path:
    model.save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "SamImageProcessor",
        "size": {"longest_edge": side},
        "pad_size": {"height": side, "width": side},
        "mask_size": {"longest_edge": side // 4},
        "mask_pad_size": {"height": side // 4, "width": side // 4},
        **IMAGENET,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def random_sam2(folder: Path, side: int = 128, seed: int = 0) -> Path:
    """A SAM 2 of random weights. As published, it is the model for videos: of type `sam2_video`, with a memory."""
    import torch
    from transformers import Sam2VideoConfig, Sam2VideoModel

    torch.manual_seed(seed)
    width, level = 32, side // 4
    memory = {
        "memory_attention_hidden_size": width,
        "memory_attention_feed_forward_hidden_size": width,
        "memory_attention_num_layers": 1,
        "memory_attention_rope_feat_sizes": [level // 4, level // 4],
        "memory_encoder_hidden_size": width,
        "memory_encoder_output_channels": width // 2,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": width,
        "memory_fuser_num_layers": 1,
    }
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "hidden_size": 8,
                "image_size": [side, side],
                "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 2],
                "window_size_per_stage": [4, 4, 4, 4],
                "global_attention_blocks": [3],
                "initializer_range": 0.3,
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[level, level], [level // 2, level // 2], [level // 4, level // 4]],
            "fpn_hidden_size": width,
            "initializer_range": 0.3,
        },
        prompt_encoder_config={"hidden_size": width, "image_size": side},
        mask_decoder_config={
            "hidden_size": width,
            "mlp_dim": 64,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": width,
        },
        image_size=side,
        initializer_range=0.3,
        **memory,
    )
    Sam2VideoModel(config).eval().save_pretrained(folder)
    preprocessor = {"image_processor_type": "Sam2ImageProcessorFast", "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**preprocessor, **IMAGENET}))
    return folder


def bright_onnx(path: Path, side: int | str = 320, logits: bool = False, gain: float = 40.0) -> Path:
    """A network in U2-Net's layout, [1, 3, S, S] -> [1, 1, S, S] and a second map, that finds what is bright.

    Its answer is sigmoid(gain * (mean of RGB - 0.5)), with RGB in 0 to 1; or the same before the sigmoid.
    `gain` 0 makes it constant. A `side` in words leaves the size open.
    """
    std, mean = np.array(IMAGENET["image_std"]), np.array(IMAGENET["image_mean"])
    weight = (gain * std / 3).reshape(1, 3, 1, 1).astype(np.float32)
    bias = np.array([gain * (mean.mean() - 0.5)], np.float32)
    nodes = [
        helper.make_node("Conv", ["input.1", "weight", "bias"], ["map"], kernel_shape=[1, 1]),
        helper.make_node("Identity" if logits else "Sigmoid", ["map"], ["1959"]),
        helper.make_node("Neg", ["map"], ["1960"]),
    ]
    graph = helper.make_graph(
        nodes,
        "u2net",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, side, side]) for name in ("1959", "1960")],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
