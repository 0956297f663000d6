"""Labels with scores: read from COCO files, and drawn by them."""

import json

import numpy as np
import pytest
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.registry import DefaultScope

import tinysaver_det.models  # noqa: F401
from tinysaver_det.datasets import SampleLabels, ScoredCocoDataset
from tinysaver_det.errors import ConfigError

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='SampleLabels'), dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs')]


def build(config):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(config)


@pytest.fixture
def data(photos, tmp_path):
    """A data set of one photo with three labels, of which one is too narrow to count, and one photo without any."""
    boxes = [([5, 5, 20, 20], 0.25), ([1, 1, 0.5, 20], 0.9), ([9, 9, 30, 30], None)]
    content = json.loads(photos.ann.read_text())
    content['images'] = content['images'][:2]
    content['annotations'] = [
        dict(id=n + 1, image_id=2, category_id=n % 2 + 1, bbox=b, area=b[2] * b[3], iscrowd=0,
             **({} if s is None else dict(score=s))) for n, (b, s) in enumerate(boxes)]
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    return dict(type='ScoredCocoDataset', ann_file=str(tmp_path / 'ann.json'),
                data_prefix=dict(img=f'{photos.folder}/'), metainfo=dict(classes=('cat', 'dog', 'bus')),
                filter_cfg=dict(filter_empty_gt=False), pipeline=PIPELINE)


def test_scores_stay_with_their_objects(data):
    dataset = build(data)
    assert isinstance(dataset, ScoredCocoDataset) and len(dataset) == 2
    empty, full = (dataset.get_data_info(i)['instances'] for i in range(2))
    assert empty == []
    assert [(i['score'], i['bbox'], i['bbox_label']) for i in full] == [
        (0.25, [5, 5, 25, 25], 0), (1.0, [9, 9, 39, 39], 0)]
    plain = build(dict(data, type='CocoDataset', pipeline=[]))
    assert [{k: v for k, v in i.items() if k != 'score'} for i in full] == plain.get_data_info(1)['instances']


def test_each_label_is_there_as_often_as_it_is_sure_and_whole(data):
    dataset = build(data)
    np.random.seed(0)
    counts = []
    for _ in range(400):
        found = dataset[1]['data_samples'].gt_instances
        sides = found.bboxes.tensor[:, 2:] - found.bboxes.tensor[:, :2]
        assert len(found.labels) == len(sides) and set(sides[:, 0].tolist()) <= {20.0, 30.0}
        counts.append(len(found.labels))
    assert min(counts) == 1 and np.mean(counts) == pytest.approx(1.25, abs=0.07)  # three standard errors
    assert len(dataset[0]['data_samples'].gt_instances) == 0


def test_chances_are_those_of_numpy_s_seed():
    sample = TRANSFORMS.build(dict(type='SampleLabels'))
    labels = [dict(score=0.5, number=n) for n in range(64)]

    def drawn(seed):
        np.random.seed(seed)
        return [[i['number'] for i in sample(dict(instances=list(labels)))['instances']] for _ in range(2)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert drawn(1)[0] != drawn(1)[1]


def test_floor_and_certain_labels():
    labels = [dict(score=s) for s in (0.0, 0.3, 1.0)]
    assert '0.4' in repr(SampleLabels(0.4))
    for _ in range(50):
        assert SampleLabels(0.4)(dict(instances=list(labels)))['instances'] == [dict(score=1.0)]


@pytest.mark.parametrize('floor', [-0.1, 1.5])
def test_a_floor_outside_is_refused(floor):
    with pytest.raises(ConfigError, match=rf'floor of SampleLabels must lie in \[0, 1\], but got {floor}'):
        SampleLabels(floor)


@pytest.mark.parametrize('results', [{}, dict(instances=[dict(bbox=[0, 0, 1, 1])], img_path='a.jpg')])
def test_labels_without_scores_are_refused(results):
    with pytest.raises(ConfigError, match='needs labels with scores, .*ScoredCocoDataset'):
        SampleLabels()(results)
