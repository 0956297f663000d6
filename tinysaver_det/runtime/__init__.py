"""An exported cascade, run with onnxruntime: neither torch nor OpenMMLab.

.. code-block:: python

    from tinysaver_det.runtime import Cascade

    cascade = Cascade.load('bundle')
    for result in cascade(['street.jpg', frame]):
        print(result.stage, result.confidence, result.gflops, len(result.detections))

``tools/export.py`` writes a bundle, :mod:`tinysaver_det.runtime.bundle` describes it.
"""

from .bundle import Bundle

__all__ = ['Bundle']
