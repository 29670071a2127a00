"""Tiny Zero-1-to-3 checkpoints of random weights, in the layouts of the published ones; and a hub that has one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Layout = Literal["kxic", "bennyguo"]
# Of the projection: its folder, its class and the module that has it, its linear layer, and its settings.
PROJECTIONS: dict[str, tuple[str, str, str, str, dict[str, int]]] = {
    "kxic": ("cc_projection", "CCProjection", "pipeline_zero1to3", "projection", {}),
    "bennyguo": (
        "clip_camera_projection",
        "CLIPCameraProjection",
        "zero123",
        "proj",
        {"embedding_dim": 12, "additional_embeddings": 4},
    ),
}
WIDTH = 12  # of the embedding, 768 in the published ones
BOOBY_TRAP = "raise SystemExit('code out of a weights folder was run')\n"


def random_zero123(folder: Path, layout: Layout = "kxic", seed: int = 0, variant: str | None = None) -> Path:
    """A folder as `kxic/zero123-xl` or `bennyguo/zero123-xl-diffusers` is laid out, their code replaced by a trap.

    The decoder's pictures are white but for what the latents bring, so that an object can be found in some.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=8,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    unet.save_pretrained(folder / "unet", variant=variant)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
    )
    torch.nn.init.constant_(vae.decoder.conv_out.bias, 1.2)
    vae.save_pretrained(folder / "vae", variant=variant)
    clip = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=56,
        initializer_range=0.3,
    )
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "image_encoder")
    if variant:
        (folder / "image_encoder/model.safetensors").rename(folder / f"image_encoder/model.{variant}.safetensors")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")
    name, kind, module, layer, config = PROJECTIONS[layout]
    (folder / name).mkdir()
    (folder / name / f"{module}.py").write_text(BOOBY_TRAP)
    (folder / name / "config.json").write_text(json.dumps({"_class_name": kind, **config}))
    linear = torch.nn.Linear(WIDTH + 4, WIDTH)
    stem = "diffusion_pytorch_model" + (f".{variant}" if variant else "")
    tensors = {f"{layer}.weight": linear.weight.data.clone(), f"{layer}.bias": linear.bias.data.clone()}
    save_file(tensors, folder / name / f"{stem}.safetensors", {"format": "pt"})
    index: dict[str, Any] = {
        "_class_name": "Zero1to3StableDiffusionPipeline" if layout == "kxic" else ["zero123", "Zero123Pipeline"],
        "_diffusers_version": "0.18.2",
        name: [module, kind],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


@contextmanager
def hub_of(folder: Path) -> Iterator[tuple[str, set[str]]]:
    """A hub on this machine whose one repository, owner/model, is `folder`: its address, and what it has handed out."""
    handed_out: set[str] = set()
    commit = "0" * 40

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            headers = {"X-Repo-Commit": commit}
            if path.startswith(f"/api/models/owner/model/tree/{commit}"):
                body = json.dumps([{"type": "file", "path": name, **self.facts(name)} for name in names]).encode()
            elif path.startswith("/api/models/owner/model"):
                files = [{"rfilename": name} for name in names]
                body = json.dumps({"id": "owner/model", "sha": commit, "siblings": files, "tags": []}).encode()
            elif path.startswith(f"/owner/model/resolve/{commit}/"):
                name = path.removeprefix(f"/owner/model/resolve/{commit}/")
                handed_out.add(name)
                body = (folder / name).read_bytes()
                headers["ETag"] = f'"{self.facts(name)["oid"]}"'
            else:
                self.send_error(404)
                return
            self.send_response(200)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def facts(self, name: str) -> dict[str, Any]:
            data = (folder / name).read_bytes()
            return {"size": len(data), "oid": hashlib.sha256(data).hexdigest()}

        def log_message(self, *_: object) -> None:
            """Nothing on the screen."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handed_out
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
