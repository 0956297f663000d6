"""Make the detector's labels mean what the data set's labels mean."""

import json
import os

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from ...errors import ClassesError


@HOOKS.register_module()
class TargetClassesHook(Hook):
    """Before a test or validation: the data set's classes become the detector's target classes.

    A detector whose ``target_classes`` were given in the config must agree with the data set, since metrics read
    its labels as the data set's.

    Raises:
        ClassesError: They don't agree, a stage doesn't know a class of the data set, or the annotation file has other
            categories or another order.
    """

    priority = 'VERY_HIGH'

    def before_test_epoch(self, runner):
        match_classes(unwrap(runner.model), runner.test_loop.dataloader.dataset)

    def before_val_epoch(self, runner):
        match_classes(unwrap(runner.model), runner.val_loop.dataloader.dataset)


def match_classes(detector, dataset) -> None:
    """Make a data set's classes the target classes of a detector, or refuse where its own are fixed to others.

    Raises:
        ClassesError: As said above.
    """
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None or not hasattr(detector, 'target_classes'):
        return
    classes = (classes,) if isinstance(classes, str) else tuple(classes)
    for part in getattr(dataset, 'datasets', [dataset]):
        check_order(part, classes)
    if not detector.fixed_target_classes:
        detector.target_classes = classes
    elif detector.target_classes != classes:
        raise ClassesError(
            f'model.target_classes and the classes of the data set differ, so its metrics would misread the '
            f'labels: {_short(detector.target_classes)} against {_short(classes)}; set '
            f'test_dataloader.dataset.metainfo=dict(classes=...) to the same, or remove target_classes')


def check_order(dataset, classes) -> None:
    """Refuse classes that don't stand in the order of the annotation file's categories.

    mmdet's CocoDataset and CocoMetric number the labels in the order of the file's ``categories``, whatever the order
    of the data set's classes: with another one, or with classes that the file lacks, boxes are counted as another
    class.

    Raises:
        ClassesError: Naming the classes that are lacking, or the order to write.
    """
    path, ids = getattr(dataset, 'ann_file', None), getattr(dataset, 'cat_ids', None)
    if not path or ids is None or not os.path.isfile(path):
        return
    with open(path, encoding='utf-8') as f:
        names = {c['id']: c['name'] for c in json.load(f).get('categories', [])}
    known = tuple(names[i] for i in ids)
    lacking = [c for c in classes if c not in known]
    if lacking:
        raise ClassesError(f'annotation file {path} has no category {_short(lacking)}, which the data set names; it '
                           f'has {_short(tuple(names.values()))}: name those to detect, such as with --cfg-options '
                           f'"test_dataloader.dataset.metainfo.classes={tuple(names.values())[:2]}"')
    if known != classes:
        raise ClassesError(f"the data set's classes must stand in the order of the categories of annotation file "
                           f'{path}, since mmdet numbers the labels by it: write metainfo.classes={known}')


def unwrap(model):
    """The detector itself, out of a wrapper for distributed runs."""
    return model.module if is_model_wrapper(model) else model


def _short(classes):
    return f'{len(classes)} ({", ".join(classes[:5])}{", ..." if len(classes) > 5 else ""})'
