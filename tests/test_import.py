"""The half that analyses recorded results needs neither torch nor OpenMMLab."""

import pytest

LIGHT = ['tinysaver_det', 'tinysaver_det.errors', 'tinysaver_det.detections', 'tinysaver_det.confidence',
         'tinysaver_det.routing', 'tinysaver_det.merging',
         'tinysaver_det.analysis', 'tinysaver_det.analysis._kernels', 'tinysaver_det.analysis.gate_fitting',
         'tinysaver_det.report',
         'tinysaver_det.report.cascade_cost', 'tinysaver_det.pictures', 'tinysaver_det.drawn_files',
         'tinysaver_det.badge', 'tinysaver_det.analysis.record_images',
         'tinysaver_det.report.precision_report', 'tinysaver_det.runtime.graph_runner',
         'tinysaver_det.report.html', 'tinysaver_det.command', 'tinysaver_det.files', 'tinysaver_det.compat',
         'tinysaver_det.image_files', 'tinysaver_det.machine', 'tinysaver_det.runtime', 'tinysaver_det.runtime.run',
         'tinysaver_det.runtime.serve']


@pytest.mark.parametrize('module', LIGHT)
def test_light_modules_import_neither_torch_nor_openmmlab(run_python, module):
    code = (f'import sys, {module}; '
            "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'torchvision', 'mmdet', 'mmcv', "
            "'mmengine')])")
    assert run_python('-c', code).stdout.strip() == '[]'


@pytest.mark.parametrize('module', ['tinysaver_det.confidence', 'tinysaver_det.analysis.gate_fitting',
                                    'tinysaver_det.analysis.sweep'])
def test_scikit_learn_is_not_imported_before_a_fit(run_python, module):
    assert run_python('-c', f'import sys, {module}; print("sklearn" in sys.modules)').stdout.strip() == 'False'


def test_errors_are_all_in_the_tree_of_their_docstring():
    from tinysaver_det import errors

    for name, value in vars(errors).items():
        if isinstance(value, type):
            assert issubclass(value, errors.TinySaverError)
            assert name in errors.__doc__
