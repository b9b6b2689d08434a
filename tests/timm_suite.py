"""Runs timm's own model tests, out of the source distribution of the installed timm, on our models.

    python tests/timm_suite.py                    # `_test` variants, and the smallest of each family
    python tests/timm_suite.py --models all       # every variant
    python tests/timm_suite.py --models 'nat_*' 'dinat_l' -- -x --durations=10

The test file is downloaded once, with pip, to `build/timm_suite` (it is in timm's sdist, not in its wheel).
"""

import argparse
import fnmatch
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import timm

import visionattn

CACHE = Path(__file__).resolve().parent.parent / "build" / "timm_suite"
MARKERS = ["base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward"]
SMALLEST = ("nat_mini", "dinat_mini", "dinat_s_tiny", "nat_isotropic_small", "dinat_isotropic_small", "vitrpb_small")
# Models whose features are tokens with a class token, not maps: tested as timm tests its own of that kind.
TOKENS = ("soft_*",)
# Prunes at every feature index, a minute for a real model; the `_test` variants stand for their families there.
SLOW_TESTS = ("test_prune_intermediate_layers_contract",)


def fetch_tests() -> Path:
    """timm's `test_models.py`, matched to the installed version."""
    version = timm.__version__
    source, target = CACHE / f"timm-{version}.tar.gz", CACHE / version / "test_models.py"
    if not source.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        arguments = ["--no-deps", "--no-binary", "timm", "--dest", str(CACHE), f"timm=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *arguments], check=True)
    with tarfile.open(source) as archive:
        content = archive.extractfile(f"timm-{version}/tests/test_models.py").read().decode()
    listed = "NON_STD_FILTERS = [\n"
    if listed not in content:
        raise SystemExit(f"timm {version} lists its models of tokens in another way than {listed!r}")
    target.parent.mkdir(exist_ok=True)
    target.write_text(content.replace(listed, f"{listed}    {', '.join(map(repr, TOKENS))},\n"))
    return target


def list_our_models(filter="", module="", pretrained=False, exclude_filters="", **kwargs):
    """`timm.list_models`, of our model files only."""
    return _list_models(filter, visionattn.models.__all__, pretrained, exclude_filters, **kwargs)


_list_models = timm.list_models


class Selection:
    """pytest plugin: keeps the tests of the chosen models that need no pretrained weights."""

    def __init__(self, patterns: list[str], fast: bool):
        names = list_our_models()
        self.names = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
        unmatched = [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]
        if unmatched:
            raise SystemExit(f"--models: no model of ours is called {', '.join(unmatched)}")
        self.fast = fast

    def pytest_configure(self, config: pytest.Config) -> None:
        for marker in MARKERS:
            config.addinivalue_line("markers", f"{marker}: one of timm's groups of tests")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if self.keeps(item)]

    def keeps(self, item: pytest.Item) -> bool:
        name = getattr(item, "callspec", None) and item.callspec.params.get("model_name")
        test = item.name.partition("[")[0]
        too_slow = self.fast and test in SLOW_TESTS and not name.endswith("_test")
        return name in self.names and "pretrained" not in test and not too_slow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", help="names or patterns; `all` for every variant (no aliases)")
    parser.add_argument("pytest", nargs="*", help="after `--`: arguments for pytest")
    args = parser.parse_args()
    variants = [name for family in visionattn.models.__all__ for name in getattr(visionattn.models, family).VARIANTS]
    patterns = variants if args.models == ["all"] else args.models or ["*_test", *SMALLEST]
    tests = fetch_tests()
    os.environ.setdefault("TIMEOUT", "900")  # seconds a test; timm's own limits are for an idle machine
    timm.list_models = list_our_models
    timm.list_pretrained = lambda filter="", **kwargs: list_our_models(filter, pretrained=True, include_tags=True)
    configuration = tests.parent / "pytest.ini"  # keeps our own configuration out
    configuration.write_text("[pytest]\naddopts = -q -p no:cacheprovider\n")
    options = ["-c", str(configuration), "--rootdir", str(tests.parent), str(tests), *args.pytest]
    return pytest.main(options, plugins=[Selection(patterns, fast=args.models is None)])


if __name__ == "__main__":
    sys.exit(main())
