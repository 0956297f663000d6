"""Make the detector's labels mean what the data set's labels mean."""

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
        ClassesError: They don't agree, or a stage doesn't know a class of the data set.
    """

    priority = 'VERY_HIGH'

    def before_test_epoch(self, runner):
        self._match(runner, runner.test_loop.dataloader.dataset)

    def before_val_epoch(self, runner):
        self._match(runner, runner.val_loop.dataloader.dataset)

    def _match(self, runner, dataset):
        detector = unwrap(runner.model)
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if classes is None or not hasattr(detector, 'target_classes'):
            return
        classes = (classes,) if isinstance(classes, str) else tuple(classes)
        if not detector.fixed_target_classes:
            detector.target_classes = classes
        elif detector.target_classes != classes:
            raise ClassesError(
                f'model.target_classes and the classes of the data set differ, so its metrics would misread the '
                f'labels: {_short(detector.target_classes)} against {_short(classes)}; set '
                f'test_dataloader.dataset.metainfo=dict(classes=...) to the same, or remove target_classes')


def unwrap(model):
    """The detector itself, out of a wrapper for distributed runs."""
    return model.module if is_model_wrapper(model) else model


def _short(classes):
    return f'{len(classes)} ({", ".join(classes[:5])}{", ..." if len(classes) > 5 else ""})'
