"""A transform whose process is killed as if by the system, once."""

import os
import signal

from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class KillOnce(BaseTransform):
    """Kill the process that reads a certain image, the first time.

    Args:
        name: The image's file name.
        marker: A file that is made then.
        spare: Id of a process that isn't killed.
    """

    def __init__(self, name, marker, spare):
        self.name, self.marker, self.spare = name, marker, spare

    def transform(self, results):
        if os.path.basename(results['img_path']) == self.name and os.getpid() != self.spare:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return results
            os.kill(os.getpid(), signal.SIGKILL)
        return results
