"""What makes the OpenMMLab stacks run here: mmcv's operators without a compiler, and checkpoints on new torch.

Importing this package makes ``mmcv._ext`` importable where the compiled module is missing (see
:mod:`tinysaver_det.compat.mmcv_ops`). A script that imports mmdet itself imports this first::

    import tinysaver_det.compat
    import mmdet.apis

Scripts that can't be changed run through ``python -m tinysaver_det.compat.run SCRIPT ...``.
"""

from .mmcv_ops import install

install()
