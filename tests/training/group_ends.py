"""The command line, where nothing of DDP may be left when the processes' group is destroyed.

What is left would hold the group's last reference, and with it the GIL while the group's thread
ends, which waits for the GIL where it has just let go of a barrier.
"""

import gc
import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from hico.cli import main  # noqa: E402

destroy = torch.distributed.destroy_process_group


def checked():
    left = [one for one in gc.get_objects() if isinstance(one, DistributedDataParallel)]
    assert not left, f"{len(left)} DDP modules outlive their group"
    destroy()


if __name__ == "__main__":
    torch.distributed.destroy_process_group = checked
    sys.exit(main())
