"""What happens when the base fails on some images."""

import numpy as np
import pytest
import torch

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import ClassesError, ConfigError, ImageError
from tinysaver_det.evaluation import SaverMetric

from ..conftest import predict
from .scripted import ScriptedDetector, cascade, stage

SAVER, BASE = [1, 1, 9, 9, 0.2, 1], [0, 0, 5, 5, 0.75, 2]


def detector(**kw):
    """Hands all images over; which image gets which answer is in the boxes."""
    return cascade(stage({i: [SAVER] for i in range(6)}), stage({i: [BASE] for i in range(6)}), **kw)


@pytest.fixture
def failing(monkeypatch):
    """Let the base raise an error for some images, or for batches that are too large; tells its batches."""
    def fail(error, images=(), largest=None):
        run, batches = ScriptedDetector.predict, []

        def watched(self, inputs, samples, rescale=True):
            ids = [s.img_id for s in samples]
            if self.is_base:
                batches.append(ids)
                if set(ids) & set(images) or largest is not None and len(ids) > largest:
                    raise error
            return run(self, inputs, samples, rescale)

        monkeypatch.setattr(ScriptedDetector, 'predict', watched)
        monkeypatch.setattr(ScriptedDetector, 'is_base', False, raising=False)
        return batches
    return fail


def answers(cascade, images):
    cascade.base.is_base = True
    samples = predict(cascade, images)
    assert len(samples) == len(images) and [s.img_id for s in samples] == list(range(len(images)))
    for s in samples:
        label = {'saver': 1, 'base': 2}[s.stage]
        assert s.pred_instances.labels.tolist() == [label] and s.option == label - 1
    return samples


def figures(samples):
    metric = SaverMetric()
    metric.process(None, [s.to_dict() for s in samples])
    return metric.evaluate(len(samples))


def test_an_error_is_raised_unless_asked_otherwise(photos, failing):
    failing(RuntimeError('kernel failed'), images=[3])
    with pytest.raises(RuntimeError, match='kernel failed'):
        answers(detector(), photos.paths)


@pytest.mark.parametrize('size', [None, 1, 2, 4])
def test_only_the_images_that_fail_keep_the_savers_answer(photos, failing, size):
    failing(RuntimeError('kernel failed'), images=[3, 4])
    samples = answers(detector(on_base_error='keep_saver', base_batch_size=size), photos.paths)
    assert [s.stage for s in samples] == ['base'] * 3 + ['saver'] * 2 + ['base']
    assert [s.get('base_error') for s in samples] == [None] * 3 + ['RuntimeError: kernel failed'] * 2 + [None]
    assert samples[3].gflops == samples[3].saver_gflops < samples[0].gflops
    found = figures(samples)
    assert found['saver/base_errors'] == 2 and found['saver/handover'] == 4 / 6


def test_a_base_that_always_fails_leaves_the_saver(photos, failing):
    failing(RuntimeError('no GPU'), images=range(6))
    assert figures(answers(detector(on_base_error='keep_saver'), photos.paths))['saver/base_errors'] == 6


@pytest.mark.parametrize('on_base_error', ['raise', 'keep_saver'])
@pytest.mark.parametrize('error', [
    torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to")])
def test_where_memory_runs_out_smaller_batches_are_tried_and_kept_to(photos, failing, on_base_error, error):
    batches = failing(error, largest=2)
    cascade = detector(on_base_error=on_base_error)
    assert {s.stage for s in answers(cascade, photos.paths)} == {'base'}
    assert batches == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0, 1], [2], [3, 4], [5]]
    del batches[:]
    answers(cascade, photos.paths)
    assert max(map(len, batches)) <= 2 and sum(map(len, batches)) == 6


def test_a_single_image_that_is_too_large(photos, failing):
    failing(MemoryError(), images=[2])
    with pytest.raises(MemoryError):
        answers(detector(), photos.paths)
    cascade = detector(on_base_error='keep_saver')
    samples = answers(cascade, photos.paths)
    assert [i for i, s in enumerate(samples) if 'base_error' in s] == [2]
    batches = failing(ValueError(), images=[])
    answers(cascade, photos.paths)
    assert all(len(b) == 1 for b in batches)


def test_values_that_are_not_finite(photos):
    """Of the base they leave boxes out, and count; or the saver's answer stays, at the cost of both."""
    broken = {i: [BASE] for i in range(6)}
    broken[1] = [BASE, [0, 0, float('nan'), 5, 0.9, 2]]
    savers = stage({i: [SAVER] for i in range(6)})
    samples = answers(cascade(savers, stage(broken)), photos.paths)
    assert [s.dropped_boxes for s in samples] == [0, 1, 0, 0, 0, 0] and {s.stage for s in samples} == {'base'}
    samples = answers(cascade(savers, stage(broken), on_base_error='keep_saver'), photos.paths)
    assert [s.stage for s in samples].index('saver') == 1 and samples[1].base_error == (
        'it gave values that are not finite')
    assert samples[1].gflops == samples[0].gflops and samples[1].dropped_boxes == 0


def test_a_broken_image_among_others(photo_copy):
    """It breaks between the saver's reading and the base's."""
    cascade = detector(on_base_error='keep_saver')
    predict_saver = cascade.measure

    def then_break(*args):
        found = predict_saver(*args)
        photo_copy.paths[4].write_bytes(photo_copy.paths[4].read_bytes()[:200])
        return found

    cascade.measure = then_break
    samples = answers(cascade, photo_copy.paths)
    assert [s.stage for s in samples] == ['base'] * 4 + ['saver', 'base']
    assert samples[4].base_error.startswith('ImageError: ') and 'truncated' in samples[4].base_error
    with pytest.raises(ImageError, match='005.jpg is truncated'):
        cascade = detector()
        predict_saver = cascade.measure
        cascade.measure = then_break
        photo_copy.paths[4].write_bytes(photo_copy.paths[3].read_bytes())
        answers(cascade, photo_copy.paths)


def test_a_wrong_setting_is_no_failure_of_an_image(photos):
    base = stage({i: [[0, 0, 5, 5, 0.75, 7]] for i in range(6)})
    with pytest.raises(ClassesError, match='base gave label 7'):
        answers(cascade(stage({0: [SAVER]}), base, on_base_error='keep_saver'), photos.paths)


def test_a_comparison_of_both_stages_needs_both(photos, failing):
    failing(RuntimeError('kernel failed'), images=[3])
    with pytest.raises(RuntimeError, match='kernel failed'):
        answers(detector(on_base_error='keep_saver', keep_stages=True), photos.paths)


def test_another_word_is_refused():
    with pytest.raises(ConfigError, match="on_base_error must be 'raise' or 'keep_saver', but got 'skip'"):
        detector(on_base_error='skip')


def test_what_an_option_finds_by_itself(photos):
    cascade = detector()
    inputs = [cascade.options[0].pipeline.read(str(p), i) for i, p in enumerate(photos.paths[:2])]
    with torch.no_grad():
        found = cascade.run_option(1, inputs)
    for sample in found:
        np.testing.assert_allclose(sample.pred_instances.bboxes, [BASE[:4]])
        assert sample.dropped_boxes == 0 and sample.gflops > 0


def test_counting_what_the_base_alone_costs_where_it_fails(photos, failing):
    failing(RuntimeError('kernel failed'), images=[0])
    for on_base_error in ('raise', 'keep_saver'):
        found = detector(on_base_error=on_base_error)
        found.base.is_base = True
        if on_base_error == 'raise':
            with pytest.raises(RuntimeError, match='kernel failed'):
                found.base_gflops_alone(str(photos.paths[0]))
        else:
            assert np.isnan(found.base_gflops_alone(str(photos.paths[0])))


@pytest.mark.parametrize('threshold', [0, 2])
def test_what_failed_in_a_cascade_as_the_saver_is_gone_with_its_answer(photos, failing, threshold):
    failing(RuntimeError('kernel failed'), images=[3])
    inner = stage({i: [SAVER] for i in range(6)})
    inner = dict(model=dict(type='TinySaverDetector', backbone={}, saver=inner, base=inner, threshold=2,
                            confidence=dict(type='MaxScore'), on_base_error='keep_saver'),
                 test_pipeline=inner['test_pipeline'])
    found = cascade(inner, stage({i: [BASE] for i in range(6)}), threshold=threshold)
    found.saver.base.is_base = True
    samples = predict(found, photos.paths)
    failed = [i for i, s in enumerate(samples) if 'base_error' in s]
    assert failed == ([3] if threshold == 0 else []) and {s.option for s in samples} == {threshold // 2}
