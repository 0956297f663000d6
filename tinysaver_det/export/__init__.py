"""Export of a cascade to ONNX, for :mod:`tinysaver_det.runtime`: needs torch, OpenMMLab and onnx.

``tools/export.py`` does it; :func:`~tinysaver_det.export.export.export` from Python.
"""
