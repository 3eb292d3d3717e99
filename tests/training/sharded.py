"""For torchrun: steps of a sharded model and of a replicated one, on CPUs; fails if they differ."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from accelerate.utils import FullyShardedDataParallelPlugin  # noqa: E402
from accelerate.utils.fsdp_utils import fsdp2_prepare_model  # noqa: E402
from training_helpers import tiny  # noqa: E402

from hico import progressive_dropout  # noqa: E402
from hico.model.training import parts  # noqa: E402
from hico.model.training.together import WRAPPED, Touch, gather_once  # noqa: E402

TUNE = {"encoder": 1e-3, "connector": 2e-3, "llm": 3e-3}


def batch(step, rank):
    """Rows of different length; one process sees a video twice as long, or has only text."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    ids = torch.randint(0, 250, (2, 40), generator=draw)
    labels = ids.clone()
    labels[:, :20] = -100
    given = {"input_ids": ids, "labels": labels}
    if (step + rank) % 3 == 2:
        return given
    ids[:, 5], counts = -200, [4 + 4 * rank, 8]
    frames = [torch.randn(n, 3, 32, 32, generator=draw) for n in counts]
    return given | {"pixel_values_videos": frames, "modalities": ["video"] * 2}


def losses(model, plain):
    """Of four steps, with dropout and gradient checkpointing."""
    groups = parts.for_optimizer(plain, TUNE, 0.1)
    optimizer, found = torch.optim.AdamW(groups), []
    for step in range(4):
        with progressive_dropout(plain, [1, 2], [1, 0.5, 0.25], query_rows="answers"):
            loss = model(**batch(step, distributed.get_rank())).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.detach()
        distributed.all_reduce(loss)
        found.append(float(loss))
    return found


def main():
    distributed.init_process_group("gloo")
    model, _ = tiny()
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    parts.freeze(model, TUNE)
    other = copy.deepcopy(model)
    Touch(model), Touch(other)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, transformer_cls_names_to_wrap=WRAPPED, reshard_after_forward=True
    )
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision="no",
        is_main_process=distributed.get_rank() == 0,
        device=torch.device("cpu"),
    )
    sharded = fsdp2_prepare_model(accelerator, model)
    gather_once(sharded)
    found = losses(sharded, sharded), losses(DistributedDataParallel(other), other)
    torch.testing.assert_close(*map(torch.tensor, found), rtol=2e-5, atol=0)
    local = sum(p.to_local().numel() for p in sharded.parameters())
    assert local < 0.6 * sum(p.numel() for p in other.parameters())
    print(found)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
