import math

import pytest

from tinysaver_det.report.cascade_cost import cascade_cost


def columns(rows, **more):
    names = ('option', 'confidence', 'gflops', 'saver_gflops', 'dropped', 'size', 'path', 'failed')
    return dict(zip(names, zip(*rows)), **more)


def test_a_row_may_stand_for_many_images():
    kept = (0, 0.75, 1.0, 1.0, 0, (10, 20), None, False)
    handed = (2, 0.25, 6.0, 1.0, 1, (10, 20), None, False)
    light = (1, 0.5, 3.0, 1.0, 0, (5, 5), None, False)
    failed = (0, 0.125, 6.0, 1.0, 2, (7, 7), None, True)

    def alone(size, path):
        return {(10, 20): 5.0, (5, 5): 4.0, (7, 7): math.nan}[size]

    one_by_one = cascade_cost(columns([kept] * 3 + [handed] * 2 + [light] + [failed] * 2), 2, alone)
    grouped = cascade_cost(columns([kept, (*handed[:4], 2, *handed[5:]), light, (*failed[:4], 4, *failed[5:])],
                                   count=[3, 2, 1, 2]), 2, alone)
    assert grouped == one_by_one
    assert [grouped[k] for k in ('images', 'handover', 'dropped_boxes', 'base_errors')] == [8, 3 / 8, 6, 2]
    assert grouped['base_gflops'] == pytest.approx((5 * 5 + 4) / 6) and grouped['share_1'] == 1 / 8


def test_of_no_images_nothing_is_known():
    assert cascade_cost({}) == cascade_cost(dict(option=[])) == dict(images=0)
