"""`import natten` finds ours, and never silently replaces the real one."""

import importlib
import importlib.metadata
import importlib.util
import sys
import types

import pytest

from visionattn.compat import natten as compat
from visionattn.compat.natten import functional, install_as_natten, v0_14, v0_17, v0_21


@pytest.fixture(autouse=True)
def clean_imports():
    """Leaves sys.modules and sys.meta_path as they were."""
    modules, finders = dict(sys.modules), list(sys.meta_path)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "natten"]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in modules.items() if name.split(".")[0] == "natten"})
    sys.meta_path[:] = finders


def test_imports_of_every_generation():
    install_as_natten()
    import natten
    import natten.functional
    from natten import NeighborhoodAttention2D, na2d
    from natten.functional import natten2dav, natten2dqkrpb
    from natten.natten2d import NeighborhoodAttention2D as SameModule
    from natten.utils.varlen import generate_varlen_parameters

    assert NeighborhoodAttention2D is SameModule is compat.NeighborhoodAttention2D
    assert na2d is compat.na2d
    assert natten.functional is functional
    assert natten2dav is functional.natten2dav
    assert natten2dqkrpb is functional.natten2dqkrpb
    assert generate_varlen_parameters is compat.utils.varlen.generate_varlen_parameters
    assert natten.context.is_flex_compile_allowed is natten.is_flex_compile_allowed
    assert natten.HAS_LIBNATTEN is True
    assert natten.__version__ == compat.__version__ == importlib.metadata.version("natten")
    assert importlib.util.find_spec("natten").name == "natten"


@pytest.mark.parametrize(("version", "namespace"), [("0.14", v0_14), ("0.17", v0_17), ("0.21", v0_21)])
def test_one_generation(version, namespace):
    assert install_as_natten(version) is importlib.import_module("natten")
    import natten

    assert natten.__version__ == namespace.__version__
    assert natten.__version__.startswith(version)
    assert natten.NeighborhoodAttention3D is namespace.NeighborhoodAttention3D
    assert natten.na2d is natten.functional.na2d is namespace.na2d
    assert hasattr(natten, "natten2dqkrpb") == (version != "0.21")


def test_a_later_call_chooses_again():
    install_as_natten("0.14")
    install_as_natten("0.21")
    assert importlib.metadata.version("natten").startswith("0.21")
    assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1


def test_modules_that_are_not_offered():
    install_as_natten()
    with pytest.raises(NotImplementedError, match=r"natten\.profiler is not offered"):
        importlib.import_module("natten.profiler")
    with pytest.raises(ImportError, match=r"natten\.libnatten"):
        importlib.import_module("natten.libnatten")
    with pytest.raises(ImportError, match="unheard_of"):
        from natten import unheard_of  # noqa: F401


def test_the_real_one_is_not_replaced_silently():
    sys.modules["natten"] = real = types.ModuleType("natten")
    sys.modules["natten.functional"] = types.ModuleType("natten.functional")
    with pytest.raises(RuntimeError, match="imported already"):
        install_as_natten()
    assert sys.modules["natten"] is real
    install_as_natten(force=True)
    assert sys.modules["natten"].NeighborhoodAttention2D is compat.NeighborhoodAttention2D
    assert sys.modules["natten.functional"] is functional


def test_wrong_version():
    with pytest.raises(ValueError, match="version must be None or one of"):
        install_as_natten("0.15")
