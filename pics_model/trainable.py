"""Which weights of a model a training moves."""

from collections.abc import Iterator
from typing import Literal

from torch import nn

from pics_common.errors import UserError
from pics_model.backbone import Backbone
from pics_model.initialize import STOCK
from pics_model.interaction import InteractionBlock
from pics_model.lora import add_lora, is_adapter
from pics_model.pipeline import PICSPipeline

Trains = Literal["all", "published", "interaction", "lora"]


def choose_trainable(pipeline: PICSPipeline, trains: Trains, lora_rank: int = 16) -> None:
    """Freezes what `trains` leaves out, for good; what is frozen already stays so: a DINOv2 trunk, the ControlNet's
    silent convolution, autoencoder and text encoder.

    `all` is all else. `interaction` is what the interaction adds to the blocks, and the object encoder (of DINOv2 the
    projector and what takes views and words). `published` is what the authors trained: that, the ControlNet, and the
    U-Net's decoder and output; with the difference that theirs did not reach the interaction in the U-Net's encoder.
    `lora` is `interaction` and adapters of `lora_rank`, which are put in here, from torch's global generator.

    Raises `UserError` for `published` where there is no U-Net, for `lora` if peft is missing.
    """
    for part in (pipeline.autoencoder, pipeline.text_encoder):
        if part is not None:
            part.requires_grad_(False)
    if trains == "all":
        return
    backbone = pipeline.backbone
    kept = list(interaction_weights(backbone))
    if trains == "published":
        if not isinstance(backbone, Backbone):
            raise UserError(
                f"--trains published: means parts of a U-Net, and this model is a {type(backbone).__name__}; "
                f"expected all or interaction"
            )
        decoder = (backbone.controlnet, backbone.unet.up_blocks, backbone.unet.conv_norm_out, backbone.unet.conv_out)
        kept += [weight for part in decoder for weight in part.parameters() if weight.requires_grad]
    if trains == "lora":
        add_lora(backbone, lora_rank)
        kept += [weight for name, weight in backbone.named_parameters() if is_adapter(name)]
    backbone.requires_grad_(False)
    for weight in kept:
        weight.requires_grad_(True)


def interaction_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """What `InteractionBlock`s have beyond the transformer blocks whose places they took."""
    for block in model.modules():
        if isinstance(block, InteractionBlock):
            for name, weight in block.named_parameters():
                if name.partition(".")[0] not in (*STOCK, "scale_shift_table"):
                    yield weight
