"""`pics-data inspect` on a folder of meshes: each from several sides, as views and scenes show it, or what is wrong."""

from pathlib import Path

from pics_common.errors import UserError
from pics_common.page import Html, facts, image, number, page, section, tag, write_page
from pics_data.progress import TimeLeft
from pics_data.scenes.meshes import load_model, mesh_files
from pics_data.views import ViewCamera
from pics_data.views.mesh import views_of_file

CAMERAS = (ViewCamera(0, 10), ViewCamera(60, 20), ViewCamera(120, 10), ViewCamera(180, 10), ViewCamera(-60, 35))
SIZE = 224


def inspect_meshes(folder: Path, out: Path) -> Path:
    """Writes the page about the meshes of `folder` to `out`, a .html file or a folder; returns where it is."""
    files = mesh_files(str(folder))
    cards, broken = [], 0
    with TimeLeft("inspect", "meshes", len(files)) as progress:
        for path in files:
            name = path.relative_to(folder).as_posix()
            try:
                cards.append(_card(path, name))
            except UserError as error:
                broken += 1
                told = tag("figcaption", tag("code", name), tag("span", str(error), class_="bad-text"))
                cards.append(tag("figure", told, class_="mesh"))
            progress.advance()
    lead = (
        f"The meshes of {folder}, from five sides: the front, then further and further to its right, and from above. "
        "A mesh that lies on its side, inside out or without its colours will be so in views and scenes, too."
    )
    glance = section("At a glance", facts([(len(files), "meshes"), (broken, "of no use")]))
    html = page(f"Meshes: {folder.name}", lead, [glance, section("Meshes", *cards)], extra_css=STYLE)
    return write_page(out if out.suffix == ".html" else out / "index.html", html)


def _card(path: Path, name: str) -> Html:
    model = load_model(path)
    pictures = [image(view, f"{name} from {camera.azimuth:.0f} degrees")
                for camera, view in zip(CAMERAS, views_of_file(path, CAMERAS, SIZE), strict=True)]  # fmt: skip
    colours = "no colours of its own" if model.skin is None else "vertex or material colours"
    if model.skin is not None and model.skin.images:
        colours = f"{len(model.skin.images)} textures" if len(model.skin.images) > 1 else "a texture"
    words = tag("span", f" {number(len(model.solid.faces))} triangles, {colours}", class_="muted")
    return tag(
        "figure", tag("div", *pictures, class_="sides"), tag("figcaption", tag("code", name), words), class_="mesh"
    )


STYLE = """
.mesh { margin: 0 0 18px; padding: 12px; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
.mesh .sides { display: grid; grid-template-columns: repeat(5, 1fr); gap: 8px; }
.mesh img { width: 100%; height: auto; border-radius: 4px; }
.mesh figcaption { margin-top: 6px; }
"""
