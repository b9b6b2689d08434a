"""Makes `import natten` find `visionattn.compat.natten`."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Iterator, Optional

_PACKAGE = "visionattn.compat.natten"
_GENERATIONS = ("0.14", "0.17", "0.21")
_SUBMODULES = ("context", "configs", "token_permute", "utils", "utils.varlen")
# Modules of NATTEN that define what we define elsewhere.
_DEFINED_IN_TOP = ("modules", "natten1d", "natten2d", "natten3d")


class NotOfferedError(ImportError, NotImplementedError):
    """A module of NATTEN that visionattn does not offer; an ImportError, so that optional imports go on."""


class _Distribution(importlib.metadata.Distribution):
    """What package metadata say of natten, for code that asks for its version before importing it."""

    def __init__(self, version: str) -> None:
        self._text = f"Metadata-Version: 2.1\nName: natten\nVersion: {version}\n"

    def read_text(self, filename: str) -> Optional[str]:
        return self._text if filename == "METADATA" else None

    def locate_file(self, path) -> str:
        raise NotImplementedError("natten is served by visionattn and has no files of its own")


class _Finder:
    """Answers for natten's metadata and for its modules that are not there."""

    def __init__(self, version: str) -> None:
        self.version = version

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.startswith("natten."):
            raise NotOfferedError(f"{fullname} is not offered by {_PACKAGE}", name=fullname)

    def find_distributions(
        self, context: importlib.metadata.DistributionFinder.Context
    ) -> Iterator[importlib.metadata.Distribution]:
        if context.name == "natten":
            yield _Distribution(self.version)


def _is_ours(module: object) -> bool:
    return getattr(module, "__visionattn__", False) is True


def install_as_natten(version: Optional[str] = None, force: bool = False) -> ModuleType:
    """Makes `import natten`, and imports from its submodules, find visionattn's operators in this process.

    Args:
        version: "0.14", "0.17" or "0.21": serve that generation's arguments and defaults. None serves all, by the rules
            of `visionattn.compat.natten`. A later call may choose another one, for imports after it.
        force: Replace the real natten if it has been imported already. Code that holds its functions keeps them.

    Returns:
        The module that `import natten` gives.

    Raises:
        ValueError: another version.
        RuntimeError: the real natten has been imported already, and `force` is False.
    """
    if version is not None and version not in _GENERATIONS:
        raise ValueError(f"version must be None or one of {', '.join(_GENERATIONS)}, got {version!r}")
    present = sys.modules.get("natten")
    if present is not None and not _is_ours(present) and not force:
        where = getattr(present, "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"natten has been imported already, from {where}: call install_as_natten() before anything imports natten, "
            "or pass force=True to replace it"
        )
    for name in [name for name in sys.modules if name == "natten" or name.startswith("natten.")]:
        del sys.modules[name]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]

    served = importlib.import_module(_PACKAGE if version is None else f"{_PACKAGE}.v{version.replace('.', '_')}")
    # A package of its own, not an alias: with an empty __path__ Python never loads our files a second time as natten.*
    top = ModuleType("natten", served.__doc__)
    top.__dict__.update({name: value for name, value in vars(served).items() if not name.startswith("__")})
    top.__version__, top.__visionattn__, top.__path__ = served.__version__, True, []
    top.__spec__ = ModuleSpec("natten", None, origin=served.__file__, is_package=True)

    modules = {name: importlib.import_module(f"{_PACKAGE}.{name}") for name in _SUBMODULES}
    modules["functional"] = served if version == "0.21" else importlib.import_module(f"{_PACKAGE}.functional")
    modules.update(dict.fromkeys(_DEFINED_IN_TOP, top))
    for name, module in modules.items():
        sys.modules[f"natten.{name}"] = module
        if "." not in name:
            setattr(top, name, module)
    sys.modules["natten"] = top
    sys.meta_path.insert(0, _Finder(top.__version__))
    return top
