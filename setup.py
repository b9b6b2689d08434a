"""Builds the compiled libraries: plain shared objects that torch.ops.load_library loads, without any Python binding.

`visionattn/lib/libvisionattn_cpu.so` holds the operator schemas and the CPU kernels, `libvisionattn_cuda.so` the CUDA
kernels. Both are written against the LibTorch stable ABI, so one build serves every Python 3 and every torch >= 2.10.

Environment:
    VISIONATTN_BUILD: `auto` (default: the CPU library where there is a C++ compiler, the CUDA library where there is
        nvcc), `cpu`, `cuda` (both, an error if one can't be built) or `none`.
    TORCH_CUDA_ARCH_LIST: CUDA architectures, default "8.0;9.0a;9.0+PTX".
    MAX_JOBS: parallel compilations, default the number of cores.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent.resolve()
TORCH_TARGET = "0x020a000000000000"  # 2.10
DEFAULT_CUDA_ARCHS = "8.0;9.0a;9.0+PTX"
MODES = ("auto", "cpu", "cuda", "none")


def say(message: str) -> None:
    print(f"visionattn: {message}", file=sys.stderr, flush=True)


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def extensions() -> tuple[list, dict]:
    mode = os.environ.get("VISIONATTN_BUILD", "auto").lower()
    if mode not in MODES:
        raise SystemExit(f"VISIONATTN_BUILD={mode!r} is not one of {', '.join(MODES)}")
    if mode == "none":
        say("VISIONATTN_BUILD=none: no compiled library, the PyTorch reference path serves")
        return [], {}
    if mode == "auto" and not (shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")):
        say("no C++ compiler found: no compiled library, the slower PyTorch reference path serves")
        return [], {}

    from torch.utils import cpp_extension

    class Build(cpp_extension.BuildExtension):
        """Names the libraries `lib<name>.so`: they belong to no Python version."""

        def get_ext_filename(self, fullname: str) -> str:
            *package, name = fullname.split(".")
            return os.path.join(*package, f"lib{name}.so")

        def get_export_symbols(self, ext) -> list[str]:
            return []

    # GCC 12 warns of its own AVX-512 header.
    warnings = ["-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]
    common = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET}", "-std=c++20", "-O3"]
    cxx = [*common, "-fvisibility=hidden", "-g0", *warnings]

    include = [str(ROOT / "csrc")]
    result = [
        cpp_extension.CppExtension(
            "visionattn.lib.visionattn_cpu",
            sources("csrc/library.cpp", "csrc/cpu/**/*.cpp"),
            include_dirs=include,
            extra_compile_args={"cxx": cxx},
            py_limited_api=True,
        )
    ]
    cuda_home = cpp_extension.CUDA_HOME
    if mode == "cuda" and cuda_home is None:
        raise SystemExit("VISIONATTN_BUILD=cuda: no nvcc found; set CUDA_HOME or install the CUDA toolkit")
    if mode == "cuda" or (mode == "auto" and cuda_home is not None):
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
        nvcc = [
            *common,
            "-DUSE_CUDA",
            "--expt-relaxed-constexpr",
            "-Xcompiler=-fvisibility=hidden",
            "-Xfatbin=-compress-all",
        ]
        cuda = cpp_extension.CUDAExtension(
            "visionattn.lib.visionattn_cuda",
            sources("csrc/cuda/**/*.cu", "csrc/cuda/**/*.cpp"),
            include_dirs=include,
            extra_compile_args={"cxx": [*cxx, "-DUSE_CUDA"], "nvcc": nvcc},
            py_limited_api=True,
        )
        cuda.libraries = ["torch", "torch_cpu", "torch_cuda", "c10", "cudart_static", "rt", "dl", "pthread"]
        cuda.library_dirs = [d for d in cuda.library_dirs if os.path.isdir(d)]
        result.append(cuda)
        say(f"building the CUDA library for {os.environ['TORCH_CUDA_ARCH_LIST']}")
    elif mode == "auto":
        say("no nvcc found: building the CPU library only")
    return result, {"build_ext": Build}


def wheel_command() -> dict:
    """A wheel for any Python 3: there is no Python symbol in the libraries."""
    try:
        from setuptools.command.bdist_wheel import bdist_wheel
    except ImportError:
        from wheel.bdist_wheel import bdist_wheel

    class AnyPython(bdist_wheel):
        def get_tag(self) -> tuple[str, str, str]:
            _, _, platform = super().get_tag()
            return "py3", "none", platform

    return {"bdist_wheel": AnyPython}


if __name__ == "__main__":
    ext_modules, commands = extensions()
    setup(ext_modules=ext_modules, cmdclass={**commands, **wheel_command()})
