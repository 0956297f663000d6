"""A server for an exported cascade; needs ``pip install "tinysaver-det[serve]"`` and neither torch nor OpenMMLab.

.. code-block:: python

    from tinysaver_det.runtime import Cascade
    from tinysaver_det.runtime.serve import Limits, create_app, serve

    serve(Cascade.load('bundle'), port=8000, limits=Limits(queue=128))  # until Ctrl-C
    app = create_app(Cascade.load('bundle'))  # for another ASGI server: one process, since the queue is in it

``POST /detect`` takes one or several images (JPEG, PNG, BMP or WebP), as files of a form or one as the body, and
answers with JSON:

.. code-block:: text

    {"images": [{"file": "street.jpg", "stage": "base", "option": 1, "model": "yolox_nano 640", "scale": null,
                 "confidence": 0.12, "gflops": 1.4, "saver_gflops": 0.2, "base_alone_gflops": 1.2,
                 "image_size": {"width": 640, "height": 480},
                 "detections": [{"class": "car", "label": 2, "score": 0.91, "bbox": [x1, y1, x2, y2]}, ...],
                 "milliseconds": {"decode": 3.1, "saver_wait": 0.1, "saver": 9.5, "base_wait": 0.2, "base": 41.0}}]}

in the order of the request, boxes as xyxy in pixels of the image; ``?min_score=0.3`` leaves out weaker detections. A
stage that didn't run has null, as have GFLOPs that are not known. A request is answered as a whole or refused as a
whole, such as for one image of several that cannot be read; what is refused has ``{"error": "one sentence"}``:

====  ========================================================================================================
400   the form is malformed
408   the body stopped coming
413   the body is larger than ``max_upload_mb``, or there are more images than ``max_images``, or (told by their
      headers, before anything is decoded) more pixels than ``max_pixels``
415   the body is neither an image nor a form
422   an image is empty, damaged or of no known format, there is no file in the form, or a bad ``min_score``
429   more images wait than ``queue``, or too much is being uploaded at once; ``Retry-After`` says when to come again
500   a failure of the server; ``id`` finds it in the log
503   the server is shutting down
====  ========================================================================================================
"""

from .app import create_app
from .limits import Limits
from .loading import load_cascade
from .server import serve

__all__ = ['Limits', 'create_app', 'load_cascade', 'serve']
