"""Load an image file, and name it when it cannot be read."""

from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS

from .stage_pipeline import load_whole


@TRANSFORMS.register_module()
class LoadWholeImage(LoadImageFromFile):
    """mmcv's LoadImageFromFile with one sentence for a file that is missing, empty, truncated or no image.

    ``tools/test.py`` puts it in the place of LoadImageFromFile. mmdet's inferencers look for that very name, so
    configs keep it.

    Raises:
        ImageError: On use, naming the file.
    """

    def transform(self, results: dict) -> dict:
        return load_whole(super().transform, results, f'image {results["img_path"]} cannot be read')
