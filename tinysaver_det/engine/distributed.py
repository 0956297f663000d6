"""Several processes where there is no GPU, which mmengine would give each of them."""

import gc
import os
import subprocess

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..errors import ConfigError
from .hooks.target_classes_hook import unwrap

PORT = 29500


def distribute_on_cpu(cfg: Config) -> None:
    """Join the processes that a launcher started, over gloo, and let the model be wrapped for a CPU.

    Args:
        cfg: With ``launcher`` 'pytorch' (torchrun, which sets RANK and so on) or 'slurm' (srun); it is changed.

    Raises:
        ConfigError: The launcher's variables are not there.
    """
    if not torch.distributed.is_initialized():
        if cfg.launcher == 'slurm':
            _as_torchrun()
        lacking = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
        if lacking:
            raise ConfigError(f'--launcher {cfg.launcher} needs the variables {", ".join(lacking)} of its launcher: '
                              'start several processes with tools/dist_test.sh, torchrun or tools/slurm_test.sh, or '
                              'leave --launcher out')
        torch.distributed.init_process_group('gloo')
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)


def leave(runner: Runner) -> None:
    """End the connection of a runner's processes once all are done; without any nothing is to be done.

    Left to the end of the program, gloo's threads may still hold a tensor while Python ends, which aborts the process
    (pytorch/pytorch#179291). The threads end with the last reference to the group, of which the wrapper around the
    runner's model holds one: the runner keeps the model without it.
    """
    if torch.distributed.is_initialized():
        runner.model = unwrap(runner.model)
        gc.collect()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _as_torchrun():
    """Set torchrun's variables by those of Slurm, as mmengine does."""
    slurm = os.environ
    if 'SLURM_PROCID' not in slurm:
        raise ConfigError('--launcher slurm needs the variables of srun: start the test with tools/slurm_test.sh')
    os.environ.update(RANK=slurm['SLURM_PROCID'], WORLD_SIZE=slurm['SLURM_NTASKS'],
                      LOCAL_RANK=slurm.get('SLURM_LOCALID', '0'))
    os.environ.setdefault('MASTER_PORT', str(PORT))
    if 'MASTER_ADDR' not in slurm:
        try:
            hosts = subprocess.run(['scontrol', 'show', 'hostname', slurm['SLURM_NODELIST']], stdout=subprocess.PIPE,
                                   text=True, check=True)
        except (OSError, KeyError, subprocess.CalledProcessError) as e:
            raise ConfigError(f"scontrol doesn't tell where the first of Slurm's processes runs ({e}): set "
                              'MASTER_ADDR to its host') from e
        os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
