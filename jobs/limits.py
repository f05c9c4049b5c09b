"""What programs of a preset may use: its clock, and by its size the room that compiling and several processes need."""

from __future__ import annotations

from xar_agent.envs.spec import Preset
from xar_agent.errors import ConfigError
from xar_agent.sandbox.protocol import Limits

CHECKPOINT_MIB = 512
GPU_FILE_MIB = 8192
GPU_DISK_MIB = 32_768
"""Compiled kernels in /tmp, and checkpoints."""
GPU_OPEN_FILES = 16_384
PROCESSES = 256
PROCESSES_PER_GPU = 512
"""Threads count: those of CUDA, of NCCL, and of the compiler's pool, which has up to 32 processes for each rank."""


def limits_of(preset: Preset) -> Limits:
    """Of every sandbox of this preset."""
    memory_mib, cpus = preset.memory_mib, float(preset.cpus)
    if not preset.gpus:
        return Limits(memory_mib=memory_mib, cpus=cpus)
    return Limits(
        memory_mib=memory_mib,
        cpus=cpus,
        processes=PROCESSES + PROCESSES_PER_GPU * preset.gpus,
        file_mib=max(GPU_FILE_MIB, checkpoint_mib(preset)),
        open_files=GPU_OPEN_FILES,
        disk_mib=GPU_DISK_MIB + 2 * checkpoint_mib(preset),
    )


def checkpoint_mib(preset: Preset) -> int:
    """How large a checkpoint may be: the preset's ``max_checkpoint_mib``, else 512."""
    return int(preset.settings.get("max_checkpoint_mib", CHECKPOINT_MIB))


def check_clock(preset: Preset) -> None:
    """Somebody keeps this preset's clock.

    Raises:
        ConfigError: nobody does; the message says which clocks there are for its data.
    """
    if preset.clock == "rollouts":
        raise ConfigError("env.toml: clock = 'rollouts' has nobody who counts them", "use 'tokens' or 'seconds'")
    if preset.data == "folder" and preset.clock != "seconds":
        raise ConfigError(
            f"env.toml: nobody counts the {preset.clock} of a folder", "data = 'folder' needs clock = 'seconds'"
        )


def ends_itself(preset: Preset) -> bool:
    """Whether training ends at a target instead of at its budget, so that the time it took is the score."""
    return "target_loss" in preset.settings
