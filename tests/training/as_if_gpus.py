"""`hico train` for torchrun, where accelerate takes CPUs for GPUs: it shards nothing on others."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from accelerate.state import PartialState  # noqa: E402
from accelerate.utils import DistributedType  # noqa: E402
from torch.distributed.fsdp import FSDPModule  # noqa: E402

from hico.cli import main  # noqa: E402
from hico.model.training import trainer  # noqa: E402

real = trainer.TrainingArguments


def believing(**given):
    args = real(**given)
    assert args.device.type == "cpu" and args.world_size == 2
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return args


class Checked(trainer.StageTrainer):
    """Half of the weights are here, and the decoder's layers are gathered one by one."""

    def training_step(self, model, *args):
        assert all(isinstance(layer, FSDPModule) for layer in model.model.layers)
        local = sum(p.to_local().numel() for p in model.parameters())
        assert local < 0.6 * sum(p.numel() for p in model.parameters())
        return super().training_step(model, *args)


if __name__ == "__main__":
    trainer.TrainingArguments, trainer.StageTrainer = believing, Checked
    trainer.refuse_on_cpus = lambda cpu: None
    sys.exit(main(sys.argv[1:]))
