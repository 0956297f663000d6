"""TinySaver for mmdetection: a light detector first, a heavy one only where it is needed.

Importing this package is light: it loads neither torch nor any OpenMMLab package. A config file names
``tinysaver_det.models`` in its ``custom_imports``, which brings in the rest.
"""

__version__ = '0.1.0'
