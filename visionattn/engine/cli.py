"""What the command lines in tools/ share."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Callable

from torch import distributed

from visionattn.engine.mmengine_compat import LAUNCHERS

__all__ = ["add_config_arguments", "run_tool"]


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `config`, `--work-dir`, `--cfg-options` and `--launcher`."""
    parser.add_argument("config", help="Python config file, such as configs/classification/dinat/dinat_tiny.py")
    parser.add_argument(
        "--work-dir", help="folder for log, checkpoints and pictures (default: work_dirs/<config name>)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="settings that override the config's, such as train_cfg.max_epochs=3 data_root=/data/imagenet",
    )
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="what starts one process per device: pytorch is torchrun, slurm is srun",
    )


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool; errors that a user can mend are printed in one line with exit status 2 instead of a traceback.

    `VISIONATTN_TRACEBACK=1` shows the traceback all the same.
    """
    try:
        main()
    except (ValueError, TypeError, KeyError, ImportError, FileNotFoundError, NotImplementedError) as error:
        if os.environ.get("VISIONATTN_TRACEBACK"):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
