"""Views by Zero-1-to-3: a diffusion model that is shown a cut-out and told how the camera moves.

Liu et al. 2023 (Zero-1-to-3: Zero-shot One Image to 3D Object), and the weights trained further as zero123-xl, in the
two layouts in which they are kept for diffusers (`weights`). `network` is the model, `picture` how a cut-out becomes
the picture that it wants and how an object is found in the one that it gives, `generate` the views of many objects in
batches. Torch, diffusers and transformers are imported only by `load`.
"""

from typing import Final

from pics_common.saliency import Saliency
from pics_data.views import Generator
from pics_data.views.zero123.weights import find_weights, require_packages, weights_digest

__all__ = ["GUIDANCE_SCALE", "NUM_STEPS", "check", "load", "weights_digest"]

# Those of the published pipeline for diffusers.
NUM_STEPS: Final = 50
GUIDANCE_SCALE: Final = 3.0


def check(weights: str) -> None:
    """Raises `UserError` for what `load` would refuse without reading the weights: before a cluster starts.

    Fetches them from the hub if they are not here yet.
    """
    require_packages()
    find_weights(weights)


def load(
    weights: str,
    device: str = "cpu",
    *,
    threads: int = 1,
    num_steps: int = NUM_STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    batch: int = 8,
    seed: int = 0,
    saliency: Saliency | None = None,
) -> Generator:
    """The generator with its weights in memory: in half precision on a GPU, in single precision on CPUs.

    `weights` is a folder in diffusers' layout or a hub id, `device` torch's word for it, `cpu` or `cuda`. `threads` of
    the CPU are part of the result: another number may round differently. `num_steps` of denoising, 1 to 1000;
    `guidance_scale` 1 means none, and twice the speed. `batch` views go through the network together, of as many
    objects as it takes; it changes nothing in them but rounding. A view depends on `seed`, on the key and index of its
    cut-out, on its number among the cut-out's views and on its camera. `saliency` finds the object in the pictures that
    the network makes, in place of its distance from white: see `picture.cut_out`.
    Raises `UserError` where a package, a GPU or a part of the weights is missing or of no use.
    """
    assert 1 <= num_steps <= 1000
    assert batch >= 1
    require_packages()
    found = find_weights(weights)
    from pics_data.views.zero123 import generate, network

    settings = generate.Settings(num_steps, guidance_scale, batch, seed)
    return generate.generator(network.load(found, device, threads), settings, saliency)
