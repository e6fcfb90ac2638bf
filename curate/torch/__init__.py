"""For PyTorch training loops: weights from losses, samplers from runs and scores, epochs that leave out easy samples.

Not imported by `import curate`, so that torch is loaded only where it is used. Everything here works in one process and
in the processes of a distributed training (`torch.distributed`); docs/training.md has a loop to copy.
"""

from curate.torch.infobatch import Indexed, InfoBatch
from curate.torch.reweighter import LossReweighter
from curate.torch.run_sampler import RunSampler, sampler
from curate.torch.soft_cap_sampler import SoftCapSampler
from curate.training.jest import JointBatchSampler, sigmoid_losses

__all__ = [
    "Indexed",
    "InfoBatch",
    "JointBatchSampler",
    "LossReweighter",
    "RunSampler",
    "SoftCapSampler",
    "sampler",
    "sigmoid_losses",
]
