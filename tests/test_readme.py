"""What the README shows works: every snippet is run, every command and file that it names exists."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import load_fixture, official_state_dict

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
OUTDATED = "run `python tools/model_table.py --write README.md`"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = "".join(_blocks("bash")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


ONE_EPOCH = "--cfg-options train_cfg.max_epochs=1 'param_scheduler=[]'"
# What a snippet measures in earnest, the test measures in passing.
SMALLER = {
    "data/digits_coco\n": "data/digits_coco --train 8 --val 2\n",
    "--train 7200": "--train 8 --val 2",
    "_torchvision.py\npython tools/predict": f"_torchvision.py {ONE_EPOCH}\npython tools/predict",
    "_smp.py\npython tools/predict": f"_smp.py {ONE_EPOCH}\npython tools/predict",
    "export.py van_b0 --checkpoint van_b0.pth": "export.py van_test --out-indices 0 --img-size 32",
    "dinat_tiny swin_tiny_patch4_window7_224": "dinat_test nat_test --batch-size 2 --seconds 0.01",
    "--suite cpu": "--suite cpu --cases 'stage 3' --seconds 0.01",
}
TOOLS = [line for line in _commands() if line.startswith("python tools/")]
SCRIPTS = [block for block in _blocks("bash") if "python tools/" in block]
MAKE = [line for line in _commands() if line.startswith("make ")]
OTHER = [line for line in _commands() if line not in TOOLS + MAKE]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder with the files that the snippets speak of."""
    path = tmp_path_factory.mktemp("readme")
    for name in ("tools", "configs"):
        (path / name).symlink_to(ROOT / name)
    torch.save(official_state_dict(load_fixture("dinat", "dinat_mini")), path / "dinat_mini_in1k_224.pth")
    (path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path / "photos" / "noise.png")
    return path


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}\n{result.stderr}"
    return result


def test_python_snippets(folder):
    _run([sys.executable, "-c", "\n".join(_blocks("python"))], folder)


@pytest.mark.parametrize("script", SCRIPTS, ids=[block.splitlines()[0] for block in SCRIPTS])
def test_tools(folder, script):
    for shown, smaller in SMALLER.items():
        script = script.replace(shown, smaller)
    script = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", script, flags=re.MULTILINE)
    _run(["bash", "-e", "-c", script], folder)


def test_make_targets_exist():
    for command in {*MAKE, *re.findall(r"`(make \S+)`", README)}:
        subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_install_commands():
    """tests/wheel_matrix.sh installs for real; here, that the variables and extras are ones that the build knows."""
    project, setup = (ROOT / "pyproject.toml").read_text(), (ROOT / "setup.py").read_text()
    for line in OTHER:
        *settings, pip, install, target = shlex.split(line)
        assert (pip, install) == ("pip", "install")
        for setting in settings:
            assert setting.split("=")[0] in setup
        name, _, extras = target.rstrip("]").partition("[")
        assert name == "."
        for extra in extras.split(",") if extras else ():
            assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra


def test_table_of_models_is_current():
    tool = runpy.run_path(str(ROOT / "tools" / "model_table.py"))
    table = README.split(tool["START"])[1].split(tool["END"])[0].strip().splitlines()[2:]
    families = {name: family for family in tool["families"]() for name in tool["variants"](family)}
    assert [row.split("`")[1] for row in table] == [name for name in families if not name.endswith("_test")], OUTDATED
    for row in table[::12]:
        name = row.split("`")[1]
        assert row == tool["readme_row"](families[name], name), OUTDATED


@pytest.mark.slow
def test_whole_table_of_models_is_current():
    tool = runpy.run_path(str(ROOT / "tools" / "model_table.py"))
    assert tool["replace_table"](README) == README, OUTDATED


def test_files_that_are_named_exist():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    paths = re.findall(r"`((?:configs|tools|tests|visionattn)/[\w./]*)[ `]", README)
    for path in {*links, *paths}:
        assert (ROOT / path).exists(), path
