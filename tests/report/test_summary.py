import io
import json
import math

import pytest
from rich.console import Console

from tinysaver_det.errors import ConfigError
from tinysaver_det.report import SaverSummary

SUMMARY = dict(images=400, handover=0.25, gflops_per_image=2.5, saver_gflops=0.5, base_gflops=8.0, saved=0.6875,
               threshold=0.4, confidence=dict(type='MaxScore'),
               metrics={'coco/bbox_mAP': 0.321, 'coco/bbox_mAP_50': 0.5, 'coco/bbox_mAP_s': 0.1},
               baselines=dict(saver={'coco/bbox_mAP': 0.25}, base={'coco/bbox_mAP': 0.333}))


def printed(summary):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(summary.table())
    return console.export_text()


def test_table_has_a_row_for_each_stage_and_the_cascade():
    lines = printed(SaverSummary(**SUMMARY)).splitlines()
    rows = {line.split('│')[1].strip(): [c.strip() for c in line.split('│')[2:-1]] for line in lines if '│' in line}
    assert rows['saver alone'] == ['0.500', '6.2%', '-', '0.250', '-']
    assert rows['base alone'] == ['8.000', '100.0%', '-', '0.333', '-']
    assert rows['cascade'] == ['2.500', '31.2%', '25.0%', '0.321', '0.500']
    assert any('saves 68.8% of the GFLOPs' in line for line in SaverSummary(**SUMMARY).notes())
    assert all(len(line) <= 80 for line in lines)


def test_a_cascade_that_costs_more_says_so():
    assert 'costs 10.0% more' in SaverSummary(**{**SUMMARY, 'saved': -0.1}).notes()[0]


def test_json_has_the_documented_keys_and_null_for_what_is_unknown(tmp_path):
    path = tmp_path / 'saver_summary.json'
    SaverSummary(**{**SUMMARY, 'base_gflops': math.nan, 'saved': math.nan}).save(path)
    saved = json.loads(path.read_text())
    assert {'images', 'handover', 'gflops_per_image', 'saver_gflops', 'base_gflops', 'saved', 'threshold',
            'confidence', 'metrics', 'baselines'} <= set(saved)
    assert saved['base_gflops'] is None and saved['saved'] is None
    assert saved['metrics']['coco/bbox_mAP'] == 0.321


def test_table_without_metrics():
    assert 'cascade' in printed(SaverSummary(**{**SUMMARY, 'metrics': {}, 'baselines': {}, 'base_gflops': math.nan}))


def test_notes_name_what_was_left_out():
    notes = SaverSummary(**SUMMARY, dropped_boxes=3, uncounted_ops=dict(base=['torchvision::roi_align'])).notes()
    assert any('base' in n and 'torchvision::roi_align' in n for n in notes)
    assert any('3 boxes' in n for n in notes)


def test_plot(tmp_path):
    summary = SaverSummary(**{**SUMMARY, 'metrics': {'coco/bbox_mAP': 0.29, 'coco/bbox_mAP_50': 0.5}, 'baselines': {
        'saver': {'coco/bbox_mAP': 0.2}, 'base': {'coco/bbox_mAP': 0.3}}})
    assert summary.headline == 'coco/bbox_mAP'
    summary.plot(tmp_path / 'a.svg')
    text = (tmp_path / 'a.svg').read_text()
    assert all(words in text for words in ('saver: 0.200', 'base: 0.300', 'cascade: 0.290', 'GFLOPs per image'))
    with pytest.raises(ConfigError, match='test with --baselines'):
        SaverSummary(**{**SUMMARY, 'baselines': {}}).plot(tmp_path / 'b.png')
    assert not (tmp_path / 'b.png').exists()


OPTIONS = [dict(name='nano 320x320', scale=(320, 320), share=0.15, gflops=2.0),
           dict(name='nano 640x640', scale=(640, 640), share=0.1, gflops=8.0)]


def test_options_have_a_row_each(tmp_path):
    lines = printed(SaverSummary(**SUMMARY, options=OPTIONS)).splitlines()
    rows = {line.split('│')[1].strip(): [c.strip() for c in line.split('│')[2:-1]] for line in lines if '│' in line}
    assert list(rows) == ['saver alone', 'to 320x320', 'to 640x640', 'base alone', 'cascade']
    assert rows['to 320x320'] == ['2.000', '25.0%', '15.0%', '-', '-'] and all(len(line) <= 80 for line in lines)
    models = [dict(OPTIONS[0], name='a', scale=None), dict(OPTIONS[1], name='b 640x640', gflops=math.nan)]
    assert 'to b 640x640' in printed(SaverSummary(**SUMMARY, options=models))
    SaverSummary(**SUMMARY, options=models).save(tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text())['options'] == [
        dict(name='a', scale=None, share=0.15, gflops=2.0), dict(name='b 640x640', scale=[640, 640], share=0.1,
                                                                 gflops=None)]


def test_a_price_stands_where_the_threshold_does(tmp_path):
    summary = SaverSummary(**{**SUMMARY, 'threshold': None}, price=3.5)
    assert '400 images, price 3.5 points per GFLOP' in printed(summary)
    assert summary.to_dict()['price'] == 3.5 and summary.to_dict()['threshold'] is None


def test_a_budget_says_what_was_wanted_and_what_was_reached():
    routing = dict(type='Budget', policy=dict(type='Threshold'), handover=0.3, cap=0.4, window=100, slack=10)
    summary = SaverSummary(**{**SUMMARY, 'threshold': None}, routing=routing)
    assert 'budget 30.0% handed over (at most 40.0% in any 100 images)' in ' '.join(printed(summary).split())
    assert summary.to_dict()['routing'] == routing
    assert ('Budget: 30.0% handed over (at most 40.0% in any 100 images) was the target, and 25.0% were handed over '
            'at 2.500 GFLOPs per image.') in summary.notes()
    routing = dict(type='Budget', policy=dict(type='Price', gflops=[2]), gflops=2.5, window=100, slack=10)
    summary = SaverSummary(**{**SUMMARY, 'threshold': None, 'price': 1.5}, routing=routing)
    assert 'budget 2.5 GFLOPs per image' in printed(summary) and 'price' not in printed(summary)
