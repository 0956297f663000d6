"""The real thing: YOLOX-Nano at 256 and 640 pixels on real images, beside mmdet's own tools."""

import json
import pickle
from pathlib import Path

import mmengine
import numpy as np
import pytest

from tinysaver_det.analysis import Walk, confidences, read_record
from tinysaver_det.analysis.scoring import policy_rows
from tinysaver_det.confidence import LearnedGain, build_confidence
from tinysaver_det.detections import Detections
from tinysaver_det.merging import build_merge, read_alignment
from tinysaver_det.routing import SmallestScale

from ..conftest import REAL, real_options

pytestmark = pytest.mark.real_data
NANO = 'configs/tinysaver/yolox-nano-256_yolox-nano-640_coco.py'
SCALES = 'configs/tinysaver/yolox-nano-256_yolox-nano-320-416-640_coco.py'
MIM = Path(mmengine.__file__).parents[1] / 'mmdet' / '.mim'


def load(path):
    return {d['img_id']: d for d in pickle.loads(path.read_bytes())}


# Runs mmdet's own script with each list of arguments in turn: a process of its own for each would import it anew.
IN_TURN = """
import json, runpy, sys
import mmdet.apis
script, runs = sys.argv[1], json.loads(sys.argv[2])
for arguments in runs:
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name='__main__')
"""


def in_turn(run_python, folder, script, runs):
    """What mmdet's own script writes when it runs with each list of arguments, apart from this process."""
    path = folder / 'in_turn.py'
    path.write_text(IN_TURN)
    return run_python('-m', 'tinysaver_det.compat.run', path, MIM / 'tools' / script,
                      json.dumps([[str(a) for a in run] for run in runs])).stdout


@pytest.fixture(scope='module')
def alone(real, run_python, tmp_path_factory):
    """What mmdet's own tools/test.py gives for each stage and size: predictions and mAP."""
    folder = tmp_path_factory.mktemp('alone')
    options = [o.replace('test_evaluator.0.', 'test_evaluator.') for o in real_options(real, real.few)
               if not o.startswith('model.')]
    scales = dict(saver=256, base=640, **{'320': 320, '416': 416})
    in_turn(run_python, folder, 'test.py', [[
        MIM / 'configs' / 'yolox' / 'yolox_nano_8xb8-300e_coco.py', real.checkpoint, '--out', folder / f'{name}.pkl',
        '--work-dir', folder / name, '--cfg-options', *options,
        f'test_dataloader.dataset.pipeline.1.scale=({scale},{scale})'] for name, scale in scales.items()])
    found = {}
    for name in scales:
        log, = (folder / name).glob('*/*.json')
        found[name] = load(folder / f'{name}.pkl'), json.loads(log.read_text())
    return found


def boxes(prediction):
    p = prediction['pred_instances']
    return np.concatenate([p['bboxes'].numpy(), p['scores'].numpy()[:, None], p['labels'].numpy()[:, None]], 1)


@pytest.mark.parametrize('threshold, batch_size', [(0, 1), (1.01, 7), (0.15, 1), (0.15, 2), (0.15, 7)])
def test_each_image_gets_what_mmdet_gives_for_its_stage(real, alone, run_python, tmp_path, threshold, batch_size):
    out, summary = tmp_path / 'a.pkl', tmp_path / 's.json'
    run_python('tools/test.py', NANO, '--threshold', threshold, '--out', out, '--json', summary, '--quiet',
               '--work-dir', tmp_path, '--cfg-options',
               *real_options(real, real.few, **{'test_dataloader.batch_size': batch_size}))
    results, summary = load(out), json.loads(summary.read_text())
    assert set(results) == set(alone['saver'][0]) and summary['images'] == 24
    stages = {r['stage'] for r in results.values()}
    assert stages == {0: {'saver'}, 1.01: {'base'}, 0.15: {'saver', 'base'}}[threshold]
    for image, result in results.items():
        expected = boxes(alone[result['stage']][0][image])
        assert (result['stage'] == 'base') == (result['confidence'] < threshold)
        np.testing.assert_allclose(boxes(result), expected, rtol=1e-5, atol=1e-3)
    assert summary['saver_gflops'] == pytest.approx(0.198, abs=5e-4)
    assert summary['base_gflops'] == pytest.approx(1.237, abs=5e-4)
    assert summary['gflops_per_image'] == pytest.approx(
        summary['saver_gflops'] + summary['handover'] * summary['base_gflops'])
    if len(stages) == 1:
        metrics = alone[stages.pop()][1]
        for key, value in summary['metrics'].items():
            assert value == metrics[key], key


def test_baselines_hold_all_three_rows(real, alone, run_python, tmp_path):
    done = run_python('tools/test.py', NANO, '--baselines', '--quiet', '--json', tmp_path / 's.json', '--work-dir',
                      tmp_path, '--cfg-options', *real_options(real, real.few))
    summary = json.loads((tmp_path / 's.json').read_text())
    for stage in ('saver', 'base'):
        for key, value in summary['baselines'][stage].items():
            assert value == alone[stage][1][key], (stage, key)
    assert summary['baselines']['saver']['coco/bbox_mAP'] < summary['baselines']['base']['coco/bbox_mAP']
    assert 'saver alone' in done.stdout and 'base alone' in done.stdout


def test_target_classes_follow_the_data_set(real, run_python, tmp_path):
    """People only: other classes neither count nor decide."""
    out = tmp_path / 'a.pkl'
    run_python('tools/test.py', NANO, '--quiet', '--out', out, '--work-dir', tmp_path, '--json', tmp_path / 's.json',
               '--cfg-options', *real_options(real, real.few), "test_dataloader.dataset.metainfo.classes=('person',)")
    results = load(out)
    assert {int(x) for r in results.values() for x in r['pred_instances']['labels']} == {0}
    summary = json.loads((tmp_path / 's.json').read_text())
    assert 0 < summary['metrics']['coco/bbox_mAP'] < 1
    everything = tmp_path / 'all.json'
    run_python('tools/test.py', NANO, '--quiet', '--work-dir', tmp_path, '--json', everything, '--cfg-options',
               *real_options(real, real.few))
    assert summary['mean_confidence'] > json.loads(everything.read_text())['mean_confidence']


@pytest.fixture(scope='module')
def packed(real, run_python, tmp_path_factory):
    path = tmp_path_factory.mktemp('packed') / 'packed.pth'
    run_python('tools/pack_checkpoint.py', NANO, path, '--cfg-options', f'model.saver.checkpoint={real.checkpoint}',
               f'model.base.checkpoint={real.checkpoint}')
    return path


def test_mmdets_own_test_takes_our_config(real, packed, run_python, tmp_path):
    ours = tmp_path / 'ours.json'
    run_python('tools/test.py', NANO, packed, '--quiet', '--json', ours, '--work-dir', tmp_path / 'a', '--cfg-options',
               *[o for o in real_options(real, real.few) if not o.startswith('model.')])
    done = run_python('-m', 'tinysaver_det.compat.run', MIM / 'tools' / 'test.py', NANO, packed, '--work-dir',
                      tmp_path / 'b', '--cfg-options',
                      *[o for o in real_options(real, real.few) if not o.startswith('model.')])
    assert 'handed over' in done.stdout
    assert json.loads((tmp_path / 'b' / 'saver_summary.json').read_text()) == json.loads(ours.read_text())


def test_mmdets_get_flops_takes_our_config(real, run_python, tmp_path):
    said = in_turn(run_python, tmp_path, 'analysis_tools/get_flops.py', [[
        NANO, '--num-images', 2, '--cfg-options', f'model.threshold={threshold}',
        f'val_dataloader.dataset.ann_file={real.few}', f'val_dataloader.dataset.data_prefix.img={real.images}/',
        'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False',
        f'model.saver.checkpoint={real.checkpoint}', f'model.base.checkpoint={real.checkpoint}']
        for threshold in (0, 2)])
    counted = []
    for line in said.splitlines():
        if line.startswith('Flops:'):
            value = line.split()[1]
            counted.append(float(value.rstrip('GM')) * (1e-3 if value.endswith('M') else 1))
    assert len(counted) == 2
    # mmengine's counter adds batch norm and resizing, a few per cent.
    assert counted[0] == pytest.approx(0.198, rel=0.1) and counted[1] == pytest.approx(0.198 + 1.237, rel=0.1)


def test_mmdets_inferencer_and_inference_detector_take_our_config(real, packed):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    import tinysaver_det.models  # noqa: F401

    paths = [str(real.images / n) for n in real.names[:6]]
    detector = init_detector(NANO, str(packed), device='cpu')
    one_by_one = inference_detector(detector, paths)
    assert {s.stage for s in one_by_one} == {'saver', 'base'}
    import cv2

    arrays = inference_detector(detector, [cv2.imread(p) for p in paths])
    inferencer = DetInferencer(NANO, str(packed), device='cpu', show_progress=False)
    batched = inferencer(paths, batch_size=4, return_datasamples=True, no_save_vis=True)['predictions']
    from_arrays = inferencer([cv2.imread(p) for p in paths], batch_size=4, return_datasamples=True,
                             no_save_vis=True)['predictions']
    for a, *others in zip(one_by_one, arrays, batched, from_arrays):
        for b in others:
            assert a.stage == b.stage and len(a.pred_instances) == len(b.pred_instances)
            np.testing.assert_allclose(a.pred_instances.bboxes, b.pred_instances.bboxes, atol=1e-3)


@pytest.mark.slow
def test_all_400_images_give_the_published_figures(real, run_python, tmp_path):
    run_python('tools/test.py', NANO, '--baselines', '--quiet', '--json', tmp_path / 's.json', '--work-dir', tmp_path,
               '--cfg-options', *real_options(real, real.ann))
    summary = json.loads((tmp_path / 's.json').read_text())
    for stage, expected in (('saver', (0.189, 0.311, 0.189)), ('base', (0.300, 0.472, 0.309))):
        got = summary['baselines'][stage]
        assert (got['coco/bbox_mAP'], got['coco/bbox_mAP_50'], got['coco/bbox_mAP_75']) == expected


def test_recorded_confidences_route_like_the_live_detector(real, run_python, tmp_path):
    out, summary = tmp_path / 'a.pkl', tmp_path / 's.json'
    run_python('tools/test.py', NANO, '--threshold', 0.15, '--sweep', '--out', out, '--json', summary, '--quiet',
               '--work-dir', tmp_path, '--cfg-options', *real_options(real, real.few))
    live, summary = load(out), json.loads(summary.read_text())
    pair = read_record(tmp_path / 'sweep')
    recorded = confidences(pair.saver, pair.truth, build_confidence(summary['confidence']))
    assert [live[i]['confidence'] for i in pair.truth.image_ids] == recorded.tolist()
    handed = recorded < 0.15
    assert [live[i]['stage'] == 'base' for i in pair.truth.image_ids] == handed.tolist()
    exact = pair.evaluator.mean_ap(Walk.one(handed))[0, 0]  # mmdet's other metrics count more than 100 boxes a class
    assert summary['metrics']['coco/bbox_mAP'] == pytest.approx(exact, abs=5e-4)  # which is rounded


@pytest.mark.parametrize('threshold', [0.15, 1.01])
def test_a_test_with_alignment_and_merge_gives_what_the_sweep_gives(real, run_python, tmp_path, threshold):
    run_python('tools/test.py', NANO, '--sweep', '--quiet', '--work-dir', tmp_path, '--cfg-options',
               *real_options(real, real.few))
    files = ['--fuse', tmp_path / 'fuse.json', '--out', tmp_path / 'alignment.json']
    run_python('tools/align_scores.py', '--record', tmp_path / 'sweep', '--folds', 2, *files, '--quiet')
    alignment, merge = read_alignment(tmp_path / 'alignment.json'), build_merge(tmp_path / 'fuse.json')
    pair = read_record(tmp_path / 'sweep').answering(alignment, merge)
    assert merge.agreement.aligned
    out, summary = tmp_path / 'a.pkl', tmp_path / 's.json'
    run_python('tools/test.py', NANO, '--threshold', threshold, '--out', out, '--json', summary, '--quiet',
               '--work-dir', tmp_path, '--cfg-options', *real_options(real, real.few, **{
                   'model.merge': tmp_path / 'fuse.json', 'model.alignment': tmp_path / 'alignment.json'}))
    live, summary = load(out), json.loads(summary.read_text())
    handed = confidences(pair.saver, pair.truth, build_confidence(summary['confidence'])) < threshold
    assert handed.any() and (handed.all() or threshold < 1)
    for i, image in enumerate(pair.truth.image_ids.tolist()):
        answer, p = pair.answers[int(handed[i])], live[image]['pred_instances']
        rows = answer.image == i
        boxes = p['bboxes'].double().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        mine = np.concatenate([answer.bboxes[rows], answer.scores[rows, None], answer.label[rows, None]], 1)
        theirs = np.concatenate([boxes, p['scores'].double().numpy()[:, None], p['labels'].numpy()[:, None]], 1)
        assert sorted(map(tuple, mine.tolist())) == sorted(map(tuple, theirs.tolist()))  # to the last bit
    exact = pair.evaluator.mean_ap(Walk.one(handed))[0, 0]
    assert summary['metrics']['coco/bbox_mAP'] == pytest.approx(exact, abs=5e-4)  # which is rounded


def test_a_fitted_gate_in_a_test_gives_what_the_sweep_gives(real, run_python, tmp_path):
    """Fitted on recorded answers of the same two models to other images."""
    names = ('yolox_nano_256', 'yolox_nano_640')
    run_python(REAL / 'expand.py', tmp_path, *names)
    full = json.loads((tmp_path / 'instances_recorded.json').read_text())
    tested = {i['file_name'] for i in json.loads(real.few.read_text())['images']}
    images = [i for i in full['images'] if i['file_name'] not in tested][:300]
    ids = {i['id'] for i in images}
    (tmp_path / 'fit.json').write_text(json.dumps(dict(full, images=images, annotations=[
        a for a in full['annotations'] if a['image_id'] in ids])))
    run_python('tools/fit_gate.py', '--ann', tmp_path / 'fit.json', '--subset', '--saver',
               f'nano-256={tmp_path / names[0]}.bbox.json', '--base', tmp_path / f'{names[1]}.bbox.json',
               '--saver-gflops', 0.198, '--base-gflops', 1.237, '--out', tmp_path / 'gate', '--quiet')
    gate = LearnedGain(tmp_path / 'gate')
    options = {'model.confidence.type': 'LearnedGain', 'model.confidence.file': tmp_path / 'gate'}
    out, summary = tmp_path / 'a.pkl', tmp_path / 's.json'
    threshold = gate(Detections([], [], [], (480, 640)))  # about the middle
    run_python('tools/test.py', NANO, '--threshold', threshold, '--sweep', '--out', out, '--json', summary, '--quiet',
               '--work-dir', tmp_path, '--cfg-options', *real_options(real, real.few, **options))
    live, summary = load(out), json.loads(summary.read_text())
    assert summary['confidence'] == dict(gate.summary(), file=str(tmp_path / 'gate'))
    pair = read_record(tmp_path / 'sweep')
    found = confidences(pair.saver, pair.truth, gate)
    assert [live[i]['confidence'] for i in pair.truth.image_ids] == found.tolist() and len(np.unique(found)) > 20
    handed = found < threshold
    assert 0 < summary['handover'] == handed.mean() < 1
    assert [live[i]['stage'] == 'base' for i in pair.truth.image_ids] == handed.tolist()
    exact = pair.evaluator.mean_ap(Walk.one(handed))[0, 0]
    assert summary['metrics']['coco/bbox_mAP'] == pytest.approx(exact, abs=5e-4)  # which is rounded
    swept = json.loads((tmp_path / 'sweep' / 'summary.json').read_text())
    at, = (p for p in swept['confidences'].values())
    assert at['config']['checksum'] == gate.gate['checksum']
    rows = (tmp_path / 'sweep' / 'curve.csv').read_text().splitlines()
    head = rows[0].split(',')
    row = next(r for r in (dict(zip(head, map(float, r.split(',')))) for r in rows[1:])
               if r['handover'] == handed.mean())
    assert row['mAP'] == pytest.approx(exact, abs=1e-12)
    assert row['gflops'] == pytest.approx(summary['gflops_per_image'], abs=1e-9)


@pytest.mark.parametrize('batch_size', [1, 5])
def test_each_scale_gives_what_mmdet_gives_at_it(real, alone, run_python, tmp_path, batch_size):
    out, summary = tmp_path / 'a.pkl', tmp_path / 's.json'
    run_python('tools/test.py', SCALES, '--threshold', 0.3, '--sweep', '--out', out, '--json', summary, '--quiet',
               '--work-dir', tmp_path, '--cfg-options',
               *real_options(real, real.few, **{'test_dataloader.batch_size': batch_size}))
    live, summary = load(out), json.loads(summary.read_text())
    cascade = read_record(tmp_path / 'sweep')
    assert cascade.option_gflops.mean(axis=1) == pytest.approx([0.309, 0.523, 1.237], abs=5e-4)
    models = [alone[name][0] for name in ('saver', '320', '416', 'base')]
    for i, image in enumerate(cascade.truth.image_ids.tolist()):
        for results, expected in zip(cascade.options, models):
            own, theirs = results.image == i, boxes(expected[image])
            theirs[:, 2:4] -= theirs[:, :2]
            mine = np.concatenate([results.bboxes[own], results.scores[own, None], results.label[own, None]], 1)
            assert mine.shape == theirs.shape
            order = [np.lexsort(np.round(a, 3).T) for a in (mine, theirs)]
            np.testing.assert_allclose(mine[order[0]], theirs[order[1]], rtol=1e-5, atol=2e-3)
        np.testing.assert_allclose(boxes(live[image]), boxes(models[live[image]['option']][image]), rtol=1e-5,
                                   atol=1e-3)
    policy = SmallestScale(0.3, 32, cascade.sizes)
    options = policy(policy_rows(cascade.saver, cascade.truth, build_confidence(summary['confidence']), policy))
    assert [live[i]['option'] for i in cascade.truth.image_ids.tolist()] == options.tolist()
    assert set(options) == {0, 1, 2, 3} and [o['share'] for o in summary['options']] == [
        (options == k).mean() for k in (1, 2, 3)]
    exact = cascade.evaluator.mean_ap(Walk.one(options))[0, 0]
    assert summary['metrics']['coco/bbox_mAP'] == pytest.approx(exact, abs=5e-4)  # which is rounded


def test_a_record_is_swept_like_a_tests(real, run_python, tmp_path):
    """Of batches of one image, the same files; the sweep of both is the same to the last bit."""
    options = real_options(real, real.few, **{'test_dataloader.batch_size': 1, 'model.confidence.type': 'MaxScore'})
    run_python('tools/test.py', NANO, '--sweep', '--quiet', '--work-dir', tmp_path, '--cfg-options', *options)
    run_python('tools/record.py', NANO, '--out', tmp_path / 'record', '--shard-size', 7, '--quiet', '--cfg-options',
               *options)
    for name in ('saver.bbox.json', 'base.bbox.json', 'record.json'):
        assert (tmp_path / 'record' / name).read_bytes() == (tmp_path / 'sweep' / name).read_bytes(), name
    run_python('tools/sweep.py', '--record', tmp_path / 'record', '--confidence', 'MaxScore', '--quiet', '--out',
               tmp_path / 'swept')
    assert (tmp_path / 'swept' / 'curve.csv').read_text() == (tmp_path / 'sweep' / 'curve.csv').read_text()
