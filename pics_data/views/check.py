"""What can be told of a generator of views before any work begins."""

from collections.abc import Sequence

from pics_common.saliency import check_saliency
from pics_data.config import BuildConfig
from pics_data.options import ViewOptions


def check_generator(options: ViewOptions, configs: Sequence[BuildConfig]) -> None:
    """Raises `UserError` for weights or meshes that are missing or of no use; `configs` are those of a build's members.

    Fetches the weights from the hub if they are not here yet.
    """
    if options.views == "zero123":
        from pics_data.views import zero123

        zero123.check(options.view_weights)
        if options.view_saliency:
            check_saliency(options.view_saliency, "--view-saliency")
    if options.views == "mesh":
        from pics_data.scenes.meshes import mesh_files

        for config in configs:
            mesh_files(str(config.meshes or ""))
