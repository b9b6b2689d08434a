"""Builds the compiled libraries: plain shared objects that torch.ops.load_library loads, without any Python binding.

`visionattn/lib/libvisionattn_cpu.so` holds the operator schemas and the CPU kernels, `libvisionattn_cuda.so` the CUDA
kernels. Both are written against the LibTorch stable ABI, so one build serves every Python 3 and every torch >= 2.10.

Environment:
    VISIONATTN_BUILD: `auto` (default: the CPU library where there is a C++ compiler, the CUDA library where there is an
        nvcc that fits torch), `cpu`, `cuda` (both, an error if one can't be built) or `none`.
    TORCH_CUDA_ARCH_LIST: CUDA architectures, default "8.0+PTX;9.0a".
    MAX_JOBS: parallel compilations, default the number of cores.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent.resolve()
TORCH_TARGET = "0x020a000000000000"  # 2.10
DEFAULT_CUDA_ARCHS = "8.0+PTX;9.0a"
MODES = ("auto", "cpu", "cuda", "none")


def say(message: str) -> None:
    print(f"visionattn: {message}", file=sys.stderr, flush=True)


def sources(*patterns: str) -> list[str]:
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in ROOT.glob(pattern))


def locate_cuda() -> None:
    """Sets CUDA_HOME to the toolkit of the nvcc on PATH, which need not lie there: it may be a link or a script."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH"):
        return
    plan = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", plan, flags=re.MULTILINE)
    if top:
        os.environ["CUDA_HOME"] = os.path.realpath(top[1].strip())


def why_no_cuda(cuda_home: str | None, torch_cuda: str | None) -> str | None:
    """What keeps the CUDA library from being built; None if nothing does."""
    if torch_cuda is None:
        return "this torch has no CUDA"
    nvcc = shutil.which("nvcc", path=os.path.join(cuda_home, "bin")) if cuda_home else None
    if nvcc is None:
        return "no nvcc found; install the CUDA toolkit, or set CUDA_HOME to where it is"
    report = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.\d+", report)
    if release is None or release[1] != torch_cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1] if release else '?'} and torch of CUDA {torch_cuda}; majors must agree"
    return None


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

    locate_cuda()
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            f"visionattn is compiled against torch, which can't be imported here ({error}): install torch first, build "
            "with isolation, or set VISIONATTN_BUILD=none"
        ) from error

    class Build(cpp_extension.BuildExtension):
        """Names the libraries `lib<name>.so`: they belong to no Python version."""

        def get_ext_filename(self, fullname: str) -> str:
            *package, name = fullname.split(".")
            return os.path.join(*package, f"lib{name}.so")

        def get_export_symbols(self, ext) -> list[str]:
            return []

    # GCC 12 warns of its own AVX-512 header, and of loops that headers unroll for nvcc.
    warnings = ["-Wall", "-Wextra", "-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-unknown-pragmas"]
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
    if mode == "cpu":
        return result, {"build_ext": Build}
    obstacle = why_no_cuda(cpp_extension.CUDA_HOME, torch.version.cuda)
    if obstacle and mode == "cuda":
        raise SystemExit(f"VISIONATTN_BUILD=cuda: {obstacle}")
    if obstacle:
        say(f"building the CPU library only: {obstacle}")
    else:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHS)
        nvcc = [
            *common,
            "-DUSE_CUDA",
            # torch switches these off by default.
            *(f"-U__CUDA_NO_{what}__" for what in ("HALF_OPERATORS", "HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS")),
            "-U__CUDA_NO_HALF2_OPERATORS__",
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
    return result, {"build_ext": Build}


class AnyPython(bdist_wheel):
    """A wheel for any Python 3: there is no Python symbol in the libraries."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        return "py3", "none", platform


if __name__ == "__main__":
    ext_modules, commands = extensions()
    setup(ext_modules=ext_modules, cmdclass={**commands, "bdist_wheel": AnyPython})
