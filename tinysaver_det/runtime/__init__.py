"""An exported cascade, run with onnxruntime: neither torch nor OpenMMLab.

.. code-block:: python

    from tinysaver_det.runtime import Cascade

    cascade = Cascade.load('bundle')
    for result in cascade(['street.jpg', frame]):
        print(result.stage, result.confidence, result.gflops, len(result.detections))

``tools/export.py`` writes a bundle, :mod:`tinysaver_det.runtime.bundle` describes it.
"""

from .bundle import Bundle

__all__ = ['Bundle', 'Cascade', 'Result', 'Routed', 'decode_image', 'read_image']

_FROM = dict(Cascade='cascade', Result='cascade', Routed='cascade', decode_image='images', read_image='images')


def __getattr__(name):  # what needs OpenCV only when it is asked for
    if name in _FROM:
        from importlib import import_module

        return getattr(import_module(f'.{_FROM[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
