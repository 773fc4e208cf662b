"""A device that the kernels run on, as tests see it: the machine's NVIDIA GPU, or the simulator."""

from __future__ import annotations

import dataclasses
import functools
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import built_forward
import jax
import numpy as np
from watching import Watch

import jax_fa4
from jax_fa4 import manifest


@dataclasses.dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
      name: "gpu" or "simulator".
      implementation: of `jax_fa4.attention`.
      target: of the custom call that a compiled program then has.
      jax: where arrays lie.
      driver: the library with the driver's calls.
      kernels: the folder of compiled kernels for it.
      watch: the driver seen through, which JAX_FA4_CUDA_DRIVER names.
    """

    name: str
    implementation: str
    target: str
    jax: Any
    driver: Path
    kernels: Path
    watch: Watch

    @property
    def is_gpu(self) -> bool:
        """Whether sizes may be large."""
        return self.name == "gpu"

    def put(self, arrays: Any) -> Any:
        """The arrays there: a program of them is lowered for this device."""
        return jax.device_put(arrays, self.jax)

    def attention(self, **given: Any) -> Any:
        """(output, log-sum-exp) by the kernel."""
        return jax_fa4.attention(**given, implementation=self.implementation, return_residual=True)


@functools.cache
def missing_gpu() -> str | None:
    """Says why there is no GPU to test on; None where there is one."""
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def architecture(compute_capability: str) -> str:
    """What kernels are compiled for a GPU: "9.0" runs sm_90a, all of 10 the family sm_100f."""
    major = compute_capability.split(".")[0]
    if major not in ("9", "10"):
        raise ValueError(f"no kernels are compiled for GPUs of compute capability {compute_capability}")
    return {"9": "sm_90a", "10": "sm_100f"}[major]


def compiled_kernels(arch: str) -> Path:
    """The folder that JAX_FA4_KERNELS names, else what the package brings, else compiled now."""
    if named := os.environ.get(manifest.VARIABLE):
        return Path(named)
    if list(manifest.PACKAGED.glob("**/manifest.json")):
        return manifest.PACKAGED
    if not built_forward.available():
        raise FileNotFoundError(
            f"no kernels for {arch}: name a folder of them in {manifest.VARIABLE}, or install nvidia-cutlass-dsl"
        )
    return built_forward.built(arch)


def driver_of_machine() -> Path:
    """NVIDIA's library, as this process has loaded it."""
    import ctypes

    ctypes.CDLL("libcuda.so.1")
    lines = Path("/proc/self/maps").read_text().splitlines()
    return next(Path(line.split()[-1]) for line in lines if "/libcuda.so" in line)


@functools.cache
def gpu() -> Device:
    """The first NVIDIA GPU."""
    first = jax.devices("cuda")[0]
    driver = driver_of_machine()
    kernels = compiled_kernels(architecture(str(first.compute_capability)))
    return Device("gpu", "cuda", "jax_fa4_cuda_forward", first, driver, kernels, Watch(driver))


@functools.cache
def simulator() -> Device:
    """A B200 in the simulator."""
    import jax_fa4_simulator

    driver = jax_fa4_simulator.driver_path()
    kernels = texts_of(built_forward.built("sm_100a"))
    return Device("simulator", "sim", "jax_fa4_sim_forward", jax.devices("cpu")[0], driver, kernels, Watch(driver))


def texts_of(kernels: Path) -> Path:
    """A folder with the kernels' PTX and without their cubins, which a simulator cannot execute."""
    folder = Path(tempfile.mkdtemp())
    for file in (kernels / "manifest.json", *kernels.glob("*.ptx")):
        (folder / file.name).symlink_to(file)
    return folder


def on_host(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The same arrays for the oracle."""
    return {name: np.asarray(array) for name, array in arrays.items()}
