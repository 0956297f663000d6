"""What the training of the demo does beside training."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinysaver_det.engine.train_demo import _Routed, choose_operating_point, halve
from tinysaver_det.errors import CheckpointError, ConfigError
from tinysaver_det.models import Stage
from tinysaver_det.models.checkpoint import read_checkpoint

from ..conftest import CLASSES, tiny_config


@pytest.fixture
def results(photos):
    """Noisy answers of two stages for the generated photos."""
    rng = np.random.default_rng(0)
    truth = COCO(str(photos.ann))
    return {name: [dict(image_id=a['image_id'], category_id=a['category_id'], score=float(rng.uniform()),
                        bbox=[float(x) for x in np.array(a['bbox']) + rng.normal(0, noise, 4)])
                   for a in truth.anns.values() for _ in range(3)]
            for name, noise in (('saver', 2.0), ('base', 0.7))}


def test_a_routing_has_the_map_of_the_merged_results(photos, results):
    ids = [3, 1, 2, 6, 5, 4]  # in no order
    with redirect_stdout(io.StringIO()):
        routed = _Routed(str(photos.ann), results, ids)
    rng = np.random.default_rng(1)
    values = set()
    for _ in range(8):
        handed = rng.uniform(size=6) < 0.5
        chosen = dict(zip(ids, handed))
        merged = [r for name in results for r in results[name] if chosen[r['image_id']] == (name == 'base')]
        with redirect_stdout(io.StringIO()):
            truth = COCO(str(photos.ann))
            evaluated = COCOeval(truth, truth.loadRes(merged), 'bbox')
            evaluated.evaluate()
            evaluated.accumulate()
            evaluated.summarize()
        assert routed.mean_ap(handed) == pytest.approx(evaluated.stats[0], abs=1e-12)
        values.add(evaluated.stats[0])
    assert len(values) > 3


def test_the_cheapest_point_within_the_loss_is_chosen(config, capsys):
    cfg = Config(config.to_dict())
    cfg.val_dataloader = cfg.test_dataloader
    point = choose_operating_point(cfg, max_drop=1.0, quiet=True)
    assert point['handover'] == 0 and point['gflops'] > 0  # anything will do, so nothing is handed over
    assert set(point) == {'threshold', 'handover', 'gflops', 'mAP', 'saver', 'base'}
    assert 'handed over' in capsys.readouterr().out
    with pytest.raises(ConfigError, match='no threshold comes within -1.0 mAP of the base'):
        choose_operating_point(cfg, max_drop=-1.0, quiet=True)


def test_half_precision(tmp_path):
    torch.manual_seed(0)
    state = Stage('saver', dict(config=tiny_config(32))).model.state_dict()
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=state), tmp_path / 'a.pth')
    halve(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), dict(seed=3))
    read = read_checkpoint(tmp_path / 'b.pth')
    assert read['meta'] == dict(dataset_meta=dict(classes=CLASSES), trained=dict(seed=3))
    for key, value in read['state_dict'].items():
        assert value.dtype == torch.float16 and torch.equal(value, state[key].half())
    stage = Stage('saver', dict(config=tiny_config(32), checkpoint=str(tmp_path / 'b.pth')))
    assert stage.classes == CLASSES and next(stage.model.parameters()).dtype == torch.float32
    assert (tmp_path / 'b.pth').stat().st_size < 0.6 * (tmp_path / 'a.pth').stat().st_size
    state[next(iter(state))].fill_(1e6)
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=state), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='has weights beyond half precision'):
        halve(str(tmp_path / 'a.pth'), str(tmp_path / 'c.pth'), {})
    assert not (tmp_path / 'c.pth').exists()
