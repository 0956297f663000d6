import numpy as np
import pytest

from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.risk_control import fixed_sequence, hoeffding_bentkus, image_losses

from .conftest import annotation, box, coco_eval, read


@pytest.mark.parametrize('images', [1, 2, 10, 97, 400, 2500])
@pytest.mark.parametrize('limit', [0.01, 0.05, 0.1, 0.37, 0.5, 0.9])
def test_p_values_are_those_of_mapie(images, limit):
    mapie = pytest.importorskip('mapie.risk_control.methods')
    risks = np.unique([0, 1e-6, limit / 2, limit * 0.99, limit, limit * 1.05, 0.999,
                       *np.linspace(0, 0.98, 41), *(np.arange(min(images, 60)) / images)])
    expected = mapie.compute_hoeffding_bentkus_p_value(risks, images, limit)[:, 0]
    assert hoeffding_bentkus(risks, images, limit) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_all_images_lost_is_no_evidence():
    assert hoeffding_bentkus([1.0], 50, 0.1).tolist() == [1.0]


def test_p_values_fall_with_the_risk_and_with_more_images():
    by_risk = hoeffding_bentkus(np.linspace(0, 1, 201), 200, 0.3)
    assert (np.diff(by_risk) >= 0).all() and by_risk[0] < 1e-20 and by_risk[-1] == 1
    by_images = [hoeffding_bentkus([0.1], n, 0.2)[0] for n in (20, 50, 100, 500)]
    assert (np.diff(by_images) < 0).all()
    assert (np.diff([hoeffding_bentkus([0.1], 100, limit)[0] for limit in (0.11, 0.15, 0.2, 0.3)]) < 0).all()


@pytest.mark.parametrize('p_values, passed', [
    ([], 0), ([0.01], 1), ([0.2], 0), ([0.05, 0.05], 2), ([0.01, 0.02, 0.2, 0.01], 2), ([0.3, 0, 0], 0),
    ([0, 0, 0], 3)])
def test_fixed_sequence_stops_at_the_first_that_is_not_rejected(p_values, passed):
    assert fixed_sequence(p_values, 0.05) == passed


def wrong_rejections(losses, limit, certainty):
    """Share of draws, (D, n) losses each, in which a risk at the limit is said to be below it."""
    n = losses.shape[1]
    return (hoeffding_bentkus(losses.mean(axis=1), n, limit) <= 1 - certainty).mean()


@pytest.mark.parametrize('images, limit, certainty', [(50, 0.1, 0.9), (200, 0.05, 0.9), (200, 0.3, 0.8),
                                                      (1000, 0.1, 0.95)])
def test_risk_at_the_limit_is_seldom_taken_for_one_below(images, limit, certainty):
    rng, draws = np.random.default_rng(0), 20000
    level = 1 - certainty
    tolerance = 3 * np.sqrt(level * certainty / draws)
    drawn = rng.binomial(images, limit, draws) / images
    rate = (hoeffding_bentkus(drawn, images, limit) <= level).mean()
    assert rate <= level + tolerance
    assert (hoeffding_bentkus(rng.binomial(images, limit / 5, draws) / images, images, limit) <= level).mean() > rate


def test_losses_between_0_and_1_at_the_limit_are_seldom_taken_for_less():
    losses = np.random.default_rng(1).beta(0.2, 1.8, (5000, 150))  # mean 0.1
    assert wrong_rejections(losses, 0.1, 0.9) <= 0.1 + 3 * np.sqrt(0.09 / 5000)
    assert wrong_rejections(losses / 4, 0.1, 0.9) > 0.5


def test_level_of_a_sequence_needs_no_correction():
    """Eleven nested thresholds: the share of the draws that let one through whose true risk is above the limit."""
    rng, draws, images, limit, level = np.random.default_rng(2), 1500, 200, 0.1, 0.1
    keep = np.linspace(0, 1, 11)  # thresholds from all-base on: image with u < keep is kept
    risks = 0.2 * keep  # true, by a loss of 1 on a fifth of the kept ones
    wrong = through = 0
    for _ in range(draws):
        kept, lost = rng.random(images)[:, None] < keep, rng.random(images) < 0.2
        passed = fixed_sequence(hoeffding_bentkus((kept & lost[:, None]).mean(axis=0), images, limit), level)
        through += passed
        wrong += passed > 0 and risks[passed - 1] >= limit
    assert wrong / draws <= level + 3 * np.sqrt(level * (1 - level) / draws)
    assert through / draws > 3


@pytest.fixture
def hand_made(tmp_path):
    """Images 1 to 7; objects, and boxes of saver and base, whose F1 can be told by eye."""
    here, there, nowhere = [0, 0, 50, 50], [100, 100, 60, 60], [300, 300, 20, 20]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=400, width=400) for i in range(1, 8)],
        categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
        annotations=[annotation(k + 1, i, c, b, **more) for k, (i, c, b, more) in enumerate([
            (1, 1, here, {}), (1, 2, there, {}),  # the saver finds one of two, the base both
            (2, 1, here, {}),  # the saver finds it, the base does not
            # 3: nothing there; the saver shows nothing, the base something
            # 4: nothing there; the saver shows something, the base nothing
            (5, 1, here, {}),  # the saver finds it below the score
            (6, 1, here, {}), (6, 1, there, dict(iscrowd=1)),  # the saver's other box lies in a crowd
            # 7: nothing there, nothing shown
        ])])
    saver = [box(1, 1, here, 0.9), box(2, 1, here, 0.9), box(4, 2, nowhere, 0.6), box(5, 1, here, 0.4),
             box(6, 1, here, 0.9), box(6, 1, there, 0.8), box(7, 1, here, 0.3)]
    base = [box(1, 1, here, 0.9), box(1, 2, there, 0.7), box(2, 1, nowhere, 0.9), box(3, 1, here, 0.9),
            box(5, 1, here, 0.5), box(6, 1, here, 0.9), box(6, 1, nowhere, 0.49)]
    return read(tmp_path, content, [saver, base])


def test_loss_of_an_image_is_by_how_much_the_base_finds_it_better(hand_made):
    losses, of_base = image_losses(hand_made.evaluator, Metric('f1@0.5'))
    assert not of_base.any()
    assert losses == pytest.approx([1 - 2 / 3, 0, 0, 1, 1, 0, 0])


def test_loss_follows_the_scores_that_are_shown(hand_made):
    losses, _ = image_losses(hand_made.evaluator, Metric('f1@0.25'))
    assert losses == pytest.approx([1 - 2 / 3, 0, 0, 1, 0, 0, 1])


@pytest.mark.parametrize('name', ['f1@0.3', 'f1'])
@pytest.mark.parametrize('seed', range(2))
def test_losses_are_those_of_pycocotools_on_each_image_alone(data_set, seed, name):
    data = data_set(seed)
    metric = Metric(name).settle(data.evaluator)
    losses, _ = image_losses(data.evaluator, Metric(name))
    assert losses.shape == (len(data.truth),) and (losses >= 0).all() and (losses <= 1).all()
    assert 0 < (losses > 0).sum() < len(losses)
    f1 = np.zeros((2, len(losses)))
    place = {i: n for n, i in enumerate(data.truth.image_ids.tolist())}
    for k, (boxes, score) in enumerate(zip(data.boxes, metric.scores)):
        counts = np.zeros((len(losses), 3))  # hits, boxes and objects that count
        found = coco_eval(data.content, [b for b in boxes if b['score'] >= score], iouThrs=np.array([0.5]),
                          areaRng=[[0, 1e10]], areaRngLbl=['all'], maxDets=[1, 10, 100])
        for e in found.evalImgs:
            if e is not None:
                counted = ~e['dtIgnore'][0]
                counts[place[e['image_id']]] += ((e['dtMatches'][0] > 0) & counted).sum(), counted.sum(), \
                    (np.array(e['gtIgnore']) == 0).sum()
        for i, (hits, shown, objects) in enumerate(counts.tolist()):
            f1[k, i] = 2 * hits / (shown + objects) if shown + objects else 1
    assert losses == pytest.approx(np.maximum(f1[1] - f1[0], 0), abs=1e-12)
