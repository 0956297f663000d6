import numpy as np
import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from tinysaver_det.compat.checkpoints import allow_mmengine_checkpoints
from tinysaver_det.errors import CheckpointError
from tinysaver_det.models.checkpoint import read_checkpoint


def test_a_checkpoint_that_mmengines_runner_wrote_loads_with_weights_only(tmp_path):
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 1)

        def forward(self, inputs, data_samples=None, mode='loss'):
            return dict(loss=self.linear(torch.stack(inputs)).sum())

    runner = Runner(
        Model(), work_dir=str(tmp_path), default_scope='mmengine', experiment_name=tmp_path.name,
        train_dataloader=dict(batch_size=1, num_workers=0, dataset=[dict(inputs=torch.ones(2))] * 3,
                              sampler=dict(type='DefaultSampler', shuffle=False),
                              collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        log_level='ERROR')
    runner.train()
    path = tmp_path / 'epoch_1.pth'
    assert b'HistoryBuffer' in path.read_bytes()
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint['state_dict']['linear.weight'], runner.model.linear.weight.cpu())
    assert torch.load(path)['message_hub']  # torch's own default reads it too


def test_numpy_scalars_load(tmp_path):
    path = tmp_path / 'a.pth'
    meta = dict(best=np.float64(0.5), half=np.float16(0.25), n=np.int64(3), curve=np.arange(3.0))
    torch.save(dict(state_dict=dict(w=torch.ones(1)), meta=meta), path)
    loaded = read_checkpoint(path)['meta']
    assert (loaded['best'], loaded['half'], loaded['n'], loaded['curve'].tolist()) == (0.5, 0.25, 3, [0, 1, 2])


class Attack:
    """What a hostile checkpoint does: look up an attribute and call it while it is loaded."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize('owner, name', [(HistoryBuffer, '__init__'), (HistoryBuffer, '__class__'),
                                         (np.ndarray, 'tofile')])
def test_nothing_else_can_be_looked_up(tmp_path, owner, name):
    allow_mmengine_checkpoints()
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=dict(w=torch.ones(1)), meta=Attack(owner, name)), path)
    with pytest.raises(CheckpointError, match='cannot be read'):
        read_checkpoint(path)
