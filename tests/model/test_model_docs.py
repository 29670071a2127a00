"""The Python of the model's page runs as it stands."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pics_model.presets import build, load_preset
from pics_model.snapshot import save_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model.md"


def test_the_pages_python_composes_a_picture(tmp_path, monkeypatch, mini, capsys) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "runs" / "tiny" / "model", build(load_preset(str(mini))))
    rng = np.random.default_rng(0)
    for name, shape in (("table.jpg", (300, 480, 3)), ("pot.png", (80, 90, 4)), ("cup.png", (50, 40, 4))):
        pixels = rng.integers(0, 256, shape, np.uint8)
        pixels[..., 3:] = 255
        Image.fromarray(pixels).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(code, str(PAGE), "exec"), {})
    assert Image.open("tea.png").size == (480, 300)
    assert "down_blocks" in capsys.readouterr().out
