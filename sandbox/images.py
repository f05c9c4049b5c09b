"""Names of the container images that commands run in."""

from __future__ import annotations

import os

CPU_IMAGE = "xar-agent:cpu"
GPU_IMAGE = "xar-agent:gpu"


def default_image(*, gpus: bool) -> str:
    """The image of a sandbox that names none: XAR_IMAGE, else what ``make image`` or ``make image-cpu`` builds."""
    return os.environ.get("XAR_IMAGE") or (GPU_IMAGE if gpus else CPU_IMAGE)


def how_to_build(image: str) -> str:
    """What a person does about an image that is not there."""
    kind = {CPU_IMAGE: "cpu", GPU_IMAGE: "gpu"}.get(image)
    if kind is None:
        return f"docker pull {image}, or name another by XAR_IMAGE"
    return f"build it: python -m xar_agent.sandbox.build {kind}"
