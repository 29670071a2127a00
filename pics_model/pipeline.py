"""PICSPipeline: a background and K objects -> one picture, in one diffusion pass; a diffusers pipeline.

`save_pretrained` writes a folder of safetensors and JSON, `from_pretrained` reads it; nothing is unpickled.
"""

import inspect
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Diffusers loads parts only of modules that are imported: these are named in saved models, and nowhere here.
import pics_model.dino_encoder
import pics_model.flow_transformer  # noqa: F401
from pics_common.errors import UserError
from pics_model.arguments import Box, Picture, example_of, requests_of
from pics_model.autoencoder import decode_latent, encode_pixels, latent_stride
from pics_model.backbone import forget, interaction_layers
from pics_model.cut_out import Cut
from pics_model.examples import Example
from pics_model.inputs import Batch, FramingSettings, collate, compose, hint, object_pixels
from pics_model.object_encoder import nothing
from pics_model.objectives import objective_of
from pics_model.objects import Interactions
from pics_model.paste_back import paste_back
from pics_model.readout import Readout, read_out
from pics_model.side_tokens import sides_of
from pics_model.words import encode_texts

StepCallback = Callable[["PICSPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass
class PICSOutput(BaseOutput):
    """`images`: a picture for each background, at its size. `interactions`: for each picture what every block decided
    in every step, or None if that was not asked for."""

    images: list[Any]
    interactions: list[list[Readout]] | None = None


@dataclass(slots=True)
class Sampled:
    """Pictures [B, 3, R, R] in [-1, 1], their latents [B, L, n, n], and readouts for each picture if asked for."""

    pictures: Tensor
    latents: Tensor
    readouts: list[list[Readout]]


class PICSPipeline(DiffusionPipeline):
    """Parts: `backbone`, `object_encoder`, `scheduler`; `autoencoder`, where the model works on latents of one;
    `text_encoder` and `tokenizer`, where it is told words for the objects.

    Settings: `preset` (a name), `patch` (pixels a side of a latent where there is no autoencoder), `guidance` and
    `steps` (what sampling uses unless told otherwise), `framing` (of `FramingSettings`), `objective` (what the model
    learned to say; any scheduler that speaks of the same can be put in the place of `scheduler`).
    """

    model_cpu_offload_seq = "text_encoder->object_encoder->backbone->autoencoder"
    _optional_components: ClassVar[list[str]] = ["autoencoder", "text_encoder", "tokenizer"]
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents"]

    def __init__(
        self,
        backbone: ModelMixin,
        object_encoder: ModelMixin,
        scheduler: SchedulerMixin,
        autoencoder: AutoencoderKL | None = None,
        text_encoder: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        preset: str = "",
        patch: int = 4,
        guidance: float = 1.0,
        steps: int = 20,
        framing: dict[str, Any] | None = None,
        objective: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(
            backbone=backbone, object_encoder=object_encoder, scheduler=scheduler, autoencoder=autoencoder,
            text_encoder=text_encoder, tokenizer=tokenizer,
        )  # fmt: skip
        self.register_to_config(
            preset=preset, patch=patch, guidance=guidance, steps=steps, framing=framing or {},
            objective=objective or objective_of(scheduler),
        )  # fmt: skip

    @property
    def framing(self) -> FramingSettings:
        """How photos are framed and regions made for this model."""
        return FramingSettings(**self.config.framing)

    def encode(self, batch: Batch) -> Interactions:
        """The objects of a batch, ready for the backbone."""
        given = object_pixels(batch.objects.flatten(0, 1)) if batch.features is None else batch.features.flatten(0, 1)
        words = None
        if self.text_encoder is not None:
            words = encode_texts(self.tokenizer, self.text_encoder, [text for texts in batch.texts for text in texts])
        sides = sides_of(batch, *(words or ()))
        if sides is not None and batch.view_features is not None:
            sides.views = batch.view_features.flatten(0, 1)
        codes = self.object_encoder(given.to(self.object_encoder.dtype), sides)
        return Interactions(codes.unflatten(0, batch.objects.shape[:2]), batch.regions, batch.object_boxes)

    def no_object(self, like: Tensor) -> Tensor:
        """The code of an empty picture, [1, M, D] on the device of `like`: what guidance moves away from."""
        size = self.framing.object_resolution
        codes: Tensor = self.object_encoder(nothing(size, like).to(self.object_encoder.dtype))
        return codes

    def to_latent(self, pixels: Tensor) -> Tensor:
        """[B, 3, R, R] in [-1, 1] -> [B, L, n, n]."""
        return encode_pixels(self.autoencoder, self.config.patch, pixels)

    def to_pixels(self, latent: Tensor) -> Tensor:
        """[B, L, n, n] -> [B, 3, R, R], about -1 to 1."""
        return decode_latent(self.autoencoder, self.config.patch, latent)

    @property
    def latent_shape(self) -> torch.Size:
        """(L, n, n)."""
        side = self.framing.resolution // latent_stride(self.autoencoder, self.config.patch)
        return torch.Size((self.backbone.config.latent_channels, side, side))

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        generators: Sequence[torch.Generator],
        steps: int | None = None,
        guidance: float | None = None,
        callback: StepCallback | None = None,
        read: bool = False,
    ) -> Sampled:
        """Makes the pictures of a batch on this pipeline's device; each depends on its own generator only."""
        guidance = self.config.guidance if guidance is None else guidance
        dtype, device = self.backbone.dtype, batch.target.device
        scheduler = self.fresh_scheduler(self.config.steps if steps is None else steps, device)
        shape = torch.Size((len(generators), *self.latent_shape))
        noise = randn_tensor(shape, list(generators), device, dtype) * getattr(scheduler, "init_noise_sigma", 1.0)
        objects = self.encode(batch)
        objects.codes = objects.codes.to(dtype)
        none = self.no_object(batch.regions).to(dtype) if guidance != 1.0 else None
        where = hint(batch.target, batch.regions, batch.valid).to(dtype)
        counts = batch.num_objects.tolist() if read else None
        latents, readouts = self.denoise(scheduler, noise, where, objects, none, guidance, generators, callback, counts)
        return Sampled(self.to_pixels(latents).clamp(-1, 1), latents, readouts)

    @torch.no_grad()
    def denoise(
        self,
        scheduler: Any,
        latents: Tensor,
        where: Tensor,
        objects: Interactions,
        none: Tensor | None,
        guidance: float,
        generators: Sequence[torch.Generator] = (),
        callback: StepCallback | None = None,
        read: Sequence[int] | None = None,
    ) -> tuple[Tensor, list[list[Readout]]]:
        """All steps of `scheduler` from noise `latents` [B, L, n, n], with the hint `where` [B, 4, R, R].

        With `none` [1, M, D], the code of nothing, guidance moves away from it. `read` gives the pictures' numbers of
        objects, and asks for readouts.
        """
        if none is not None:
            objects = _guided(objects, none)
            where = torch.cat([where] * 2)
        objects.keep = True
        layers = interaction_layers(self.backbone) if read else []
        readouts: list[list[Readout]] = [[] for _ in read or ()]
        # Schedulers that draw noise of their own draw each picture's from its own generator.
        draws = generators and "generator" in inspect.signature(scheduler.step).parameters
        extra: dict[str, Any] = {"generator": list(generators)} if draws else {}
        for number, timestep in enumerate(self.progress_bar(scheduler.timesteps)):
            scaled = latents
            if hasattr(scheduler, "scale_model_input"):
                scaled = scheduler.scale_model_input(latents, timestep)
            objects.readings = [] if read else None
            answer = self.backbone(scaled if none is None else torch.cat([scaled] * 2), timestep, where, objects)
            if none is not None:
                answer, without = answer.chunk(2)
                answer = without + guidance * (answer - without)
            if read and objects.readings is not None:
                new = read_out(objects.readings, layers, number, float(timestep), read)
                readouts = [old + more for old, more in zip(readouts, new, strict=True)]
            latents = scheduler.step(answer, timestep, latents, **extra).prev_sample
            if callback is not None:
                latents = (callback(self, number, timestep, {"latents": latents}) or {}).get("latents", latents)
        return latents, readouts

    def fresh_scheduler(self, steps: int, device: torch.device) -> Any:
        """The scheduler, without the memory that it may have of another batch."""
        found, expected = objective_of(self.scheduler), self.config.objective
        if found != expected:
            raise UserError(
                f"scheduler {type(self.scheduler).__name__} is for models that predict {found}, this one was trained "
                f"to predict {expected}; expected a scheduler with that prediction type"
            )
        scheduler = type(self.scheduler).from_config(self.scheduler.config)
        scheduler.set_timesteps(steps, device=device)
        return scheduler

    @torch.no_grad()
    def compose_examples(
        self,
        examples: Sequence[Example],
        generators: Sequence[torch.Generator | int],
        steps: int | None = None,
        guidance: float | None = None,
        callback: StepCallback | None = None,
        read: bool = False,
    ) -> tuple[list[NDArray[np.uint8]], list[list[Readout]]]:
        """Composes each example's objects into its photo; returns pictures [H, W, 3] uint8 at the photos' own sizes,
        and the readouts, empty unless `read`. A whole number in place of a generator seeds one.

        Outside of the objects' regions every pixel is the photo's. On a CPU a picture is the same, bit for bit, in
        whatever batch; on a GPU it is up to rounding, as kernels choose their order of summation by the batch.
        """
        device = self._execution_device
        drawing = [torch.Generator().manual_seed(g) if isinstance(g, int) else g for g in generators]
        inputs = [compose(example, self.framing, None) for example in examples]
        # On CPUs one at a time costs less than half of the speed, and is what makes the promise true there.
        size = 1 if device.type == "cpu" else len(inputs)
        made: list[NDArray[np.uint8]] = []
        readouts: list[list[Readout]] = []
        for start in range(0, len(inputs), size):
            batch = collate(inputs[start : start + size]).to(device)
            sampled = self.sample(batch, drawing[start : start + size], steps, guidance, callback, read)
            pixels = ((sampled.pictures.float() + 1) * 127.5).round().to(torch.uint8)
            made += [*pixels.permute(0, 2, 3, 1).cpu().numpy()]
            readouts += sampled.readouts
        forget(self.backbone)
        self.maybe_free_model_hooks()
        pictures = [paste_back(e.photo, picture, i) for e, picture, i in zip(examples, made, inputs, strict=True)]
        return pictures, readouts

    def __call__(
        self,
        background: Picture | Sequence[Picture],
        objects: Sequence[Any],
        masks: Sequence[Any] | None = None,
        boxes: Sequence[Box | None] | Sequence[Sequence[Box | None]] | None = None,
        *,
        views: Sequence[Any] | None = None,
        texts: Sequence[Any] | None = None,
        cut_out: Cut | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | int | Sequence[torch.Generator | int] | None = None,
        output_type: Literal["pil", "np", "pt"] = "pil",
        return_dict: bool = True,
        return_interactions: bool = False,
        callback_on_step_end: StepCallback | None = None,
    ) -> PICSOutput | tuple[Any, ...]:
        """Puts `objects` into `background`, each where its mask or box says.

        Pictures are PIL pictures, arrays or tensors of any size and aspect (see `arguments`); objects have alpha or
        stand on white. `masks` have the background's size, and say with any shape where an object shall stand;
        `boxes` are (x, y, width, height) in the background's pixels. For several pictures give lists of backgrounds,
        of lists of objects, of lists of masks or boxes. An object takes a mask or a box: where both lists are given,
        the other's entry is None. Models that were trained so take, for each object, a list of other `views` (pictures
        or `View`s, which say where the camera stood), and a phrase in `texts`. `cut_out` (`cut_out.load_cut_out`) cuts
        objects out of pictures that neither have alpha nor stand on white; else all of such a picture is the object.

        `generator` is one for all pictures (drawn from in turn), or one each; a whole number seeds one.
        `callback_on_step_end(pipeline, step, timestep, {"latents": ...})` may return other latents; on a CPU pictures
        are made one at a time. `output_type` np gives [H, W, 3] uint8, pt [3, H, W] float in 0 to 1.

        Raises `UserError` for arguments that cannot be meant, naming the first.
        """
        given = {"objects": objects, "masks": masks, "boxes": boxes, "views": views, "texts": texts}
        requests, many = requests_of(background, given)
        self._check_sides(views, texts)
        self._check(num_inference_steps, guidance_scale, output_type)
        examples = [example_of(request, f"[{i}]" if many else "", cut_out) for i, request in enumerate(requests)]
        generators = _generators(generator, len(examples))
        images, readouts = self.compose_examples(
            examples, generators, num_inference_steps, guidance_scale, callback_on_step_end, return_interactions
        )
        shaped = [_shaped(image, output_type) for image in images]
        interactions = readouts if return_interactions else None
        return PICSOutput(images=shaped, interactions=interactions) if return_dict else (shaped, interactions)

    def _check_sides(self, views: Any, texts: Any) -> None:
        if views is not None and not self.framing.views:
            raise UserError("views: this model takes none; expected one that was trained with `framing.views`")
        if texts is not None and self.text_encoder is None:
            raise UserError("texts: this model takes none; expected one that was trained with a text encoder")

    def _check(self, steps: int | None, guidance: float | None, output_type: str) -> None:
        most = self.scheduler.config.num_train_timesteps
        if steps is not None and not 1 <= steps <= most:
            raise UserError(f"num_inference_steps is {steps}; expected 1 to {most}")
        if guidance is not None and not 0 <= guidance <= 1000:
            raise UserError(f"guidance_scale is {guidance}; expected 0 to 1000")
        if output_type not in ("pil", "np", "pt"):
            raise UserError(f"output_type is {output_type!r}; expected pil, np or pt")


def _guided(objects: Interactions, none: Tensor) -> Interactions:
    """The pictures twice: with their objects, then, on the same regions, with the code of nothing in their place."""
    codes = torch.cat([objects.codes, none[:, None].expand_as(objects.codes)])
    boxes = None if objects.boxes is None else torch.cat([objects.boxes] * 2)
    return Interactions(codes, torch.cat([objects.regions] * 2), boxes)


def _generators(given: Any, count: int) -> list[torch.Generator | int]:
    if given is None:
        return [secrets.randbits(63) for _ in range(count)]
    if isinstance(given, int):
        given = torch.Generator().manual_seed(given)
    if isinstance(given, torch.Generator):
        return [given] * count
    if len(given) != count:
        raise UserError(f"generator: {len(given)} given for {count} pictures; expected one for all, or one each")
    return list(given)


def _shaped(image: NDArray[np.uint8], output_type: str) -> Any:
    if output_type == "np":
        return image
    return Image.fromarray(image) if output_type == "pil" else torch.from_numpy(image).permute(2, 0, 1).float() / 255
