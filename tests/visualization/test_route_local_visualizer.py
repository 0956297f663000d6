import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from tinysaver_det.visualization import route_visualizer
from tinysaver_det.visualization.route_local_visualizer import COLORS, badge, draw_badge, route_config


def sample(stage='saver', boxes=1, **more):
    s = DetDataSample(metainfo=dict(img_path='a.jpg'))
    s.pred_instances = InstanceData(bboxes=torch.tensor([[5., 5., 60., 60.]] * boxes).reshape(-1, 4),
                                    scores=torch.full((boxes,), 0.9), labels=torch.zeros(boxes, dtype=torch.long))
    if stage:
        s.stage, s.confidence, s.gflops = stage, 0.25, 1.4347
    for k, v in more.items():
        setattr(s, k, v)
    return s


def drawn(data_sample, size=(120, 200), **kwargs):
    visualizer = route_visualizer(None, dict(classes=('cat',)))
    visualizer.add_datasample('a', np.full((*size, 3), 128, np.uint8), data_sample, **kwargs)
    return visualizer.get_image()


def share(image, color):
    """Share of the picture's lowest rows that has the colour of the badge."""
    return (np.abs(image[-8:].astype(int) - color).max(-1) < 12).mean()


def test_text_says_stage_confidence_and_cost():
    assert badge(sample('base')) == ('base | confidence 0.250 | 1.43 GFLOPs', COLORS['base'])
    assert badge(sample(None)) is None and badge(None) is None
    assert badge(sample('base', scale=(416, 320)))[0] == 'base 416x320 | confidence 0.250 | 1.43 GFLOPs'
    assert badge(sample('saver', scale=(416, 320)))[0] == 'saver | confidence 0.250 | 1.43 GFLOPs'


@pytest.mark.parametrize('stage, other', [('saver', 'base'), ('base', 'saver')])
@pytest.mark.parametrize('boxes', [0, 1, 100])
def test_the_stage_shows_by_its_colour(stage, other, boxes):
    image = drawn(sample(stage, boxes), draw_gt=False)
    assert image.shape == (120, 200, 3)
    assert share(image, COLORS[stage]) > 0.3 and share(image, COLORS[other]) == 0


def test_ground_truth_and_samples_without_a_route_get_none():
    assert share(drawn(sample(None)), COLORS['saver']) == 0
    both = sample(gt_instances=InstanceData(bboxes=torch.tensor([[5., 5., 60., 60.]]), labels=torch.tensor([0])))
    image = drawn(both)
    assert image.shape == (120, 400, 3)  # mmdet puts the ground truth on the left
    assert share(image[:, :200], COLORS['saver']) == 0 and share(image[:, 200:], COLORS['saver']) > 0.3


def test_files_have_the_badge(tmp_path):
    drawn(sample(), out_file=str(tmp_path / 'a.png'))
    assert share(cv2.imread(str(tmp_path / 'a.png'))[..., ::-1], COLORS['saver']) > 0.3


@pytest.mark.parametrize('size', [(1, 1), (8, 8), (30, 40), (500, 60), (2000, 3000)])
def test_any_size_of_picture(size):
    image = np.zeros((*size, 3), np.uint8)
    out = draw_badge(image, 'base | confidence 0.250 | 1.43 GFLOPs', COLORS['base'])
    assert out.shape == image.shape and not image.any()


def test_mmdets_own_is_replaced_and_a_users_kept():
    assert route_config(None)['type'] == 'RouteLocalVisualizer'
    assert route_config(dict(type='mmdet.DetLocalVisualizer', alpha=0.5)) == dict(
        type='RouteLocalVisualizer', alpha=0.5, name='visualizer')
    assert route_config(dict(type='Mine'))['type'] == 'Mine'
