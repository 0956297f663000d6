"""What is read from and written into a whole mmdet config; stages are in tests/models/test_stage.py."""

import pytest
from mmengine.config import Config

from tinysaver_det.stage_config import add_imports, config_classes, innermost_datasets

A, B = (dict(type='CocoDataset', metainfo=dict(classes=('a', name))) for name in 'bc')


@pytest.mark.parametrize('dataset, found', [
    (A, [A]), (dict(type='RepeatDataset', times=2, dataset=dict(type='MultiImageMixDataset', dataset=B)), [B]),
    (dict(type='ConcatDataset', datasets=[A, dict(type='RepeatDataset', dataset=B)]), [A, B]),
    (dict(type='MultiImageMixDataset', dataset=dict(type='ConcatDataset', datasets=[B, A])), [B, A]), ({}, [{}])])
def test_innermost_data_sets(dataset, found):
    assert innermost_datasets(dataset) == found
    assert config_classes(Config(dict(test_dataloader=dict(dataset=dataset)))) == found[0].get(
        'metainfo', {}).get('classes')


@pytest.mark.parametrize('before, after', [
    (None, ['ours']), (dict(imports='mine'), ['mine', 'ours']), (dict(imports=['ours', 'mine']), ['ours', 'mine'])])
def test_imports(before, after):
    cfg = Config(dict(custom_imports=before))
    add_imports(cfg, 'ours')
    assert cfg.custom_imports == dict(imports=after, allow_failed_imports=False)
    cfg = Config(dict(custom_imports=dict(imports=['mine'], allow_failed_imports=True)))
    add_imports(cfg, 'ours', 'mine')
    assert cfg.custom_imports == dict(imports=['mine', 'ours'], allow_failed_imports=True)
