"""An H100 that is not here: XLA compiles for it without one, all but the autotuning.

`pip install jax-cuda12-pjrt` of jaxlib's version brings its compiler (175 MB, no driver is needed).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re

from jax._src import compiler
from jax._src.lib import xla_client  # pyright: ignore[reportPrivateImportUsage]
from jax.experimental import topologies

from jax_bridges.typing import Device

# XLA's protobuf of what its compiler asks a device for.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
runtime_version { major: 12 minor: 8 }
dnn_version_info { major: 9 minor: 8 }
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program compiled for an H100, on this machine's CPU and without autotuning.

    Attributes:
      seconds: of CPU time that it took.
      kernels: that it launches, each loop's body counted once.
      convolutions, products: those that differ, as text; each would be autotuned.
    """

    seconds: float
    kernels: int
    convolutions: frozenset[str]
    products: frozenset[str]


def cpu_seconds() -> float:
    """CPU time of this process and of those that it has waited for (ptxas)."""
    return sum(os.times()[:4])


def h100() -> Device:
    """The device; FileNotFoundError where its compiler is not installed."""
    if importlib.util.find_spec("jax_plugins.xla_cuda12") is None:
        raise FileNotFoundError("For --h100 pip install jax-cuda12-pjrt of jaxlib's version.")
    return topologies.get_topology_desc("", "cuda", target_config=_H100, topology="1x1x1").devices[
        0
    ]


def compile_for_h100(device: Device, module) -> Compiled:
    """A StableHLO module, lowered for cuda and one device, compiled for an H100."""
    options = compiler.get_compile_options(num_replicas=1, num_partitions=1)
    # Without autotuning Triton has tiles of its own accord that do not fit every product.
    options.env_option_overrides = [
        ("xla_gpu_autotune_level", 0),
        ("xla_gpu_enable_triton_gemm", False),
    ]
    start = cpu_seconds()
    executable = device.client.compile(
        module, executable_devices=xla_client.DeviceList((device,)), compile_options=options
    )
    seconds = cpu_seconds() - start
    (text,) = (m.to_string() for m in executable.hlo_modules())
    types = dict(re.findall(r"^\s+(?:ROOT )?%([\w.\-]+) = (\S+) \w", text, re.M))
    # Computations that are bodies of fusions or of reductions launch nothing themselves.
    inner = set(re.findall(r"(?:calls|to_apply)=%([\w.\-]+)", text))
    kernels, convolutions, products, launches = 0, set(), set(), True
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            launches = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0] not in inner
        kind = re.match(r"\s+(?:ROOT )?%\S+ = (.*) (fusion|custom-call|copy|sort)\((.*?)\)", line)
        if not launches or not kind:
            continue
        kernels += 1
        target = re.search(r'custom_call_target="([^"]+)"|"kind":"(__triton\w*gemm\w*)"', line)
        if target is None:
            continue
        taken = [types.get(name.lstrip("%"), "?") for name in kind[3].split(", ")]
        how = re.findall(r'(window=\{.*?\}|dim_labels=\S+|\w+_mode":"\w+")', line)
        key = " ".join([target[1] or target[2], kind[1], *taken, *how])
        if "conv" in key.split()[0]:
            convolutions.add(key)
        elif re.search("gemm|cublas", key.split()[0]):
            products.add(key)
    return Compiled(seconds, kernels, frozenset(convolutions), frozenset(products))
