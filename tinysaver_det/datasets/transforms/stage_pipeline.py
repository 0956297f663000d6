"""A stage's own test pipeline as one transform."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS as ROOT_TRANSFORMS

from ...errors import ConfigError, ImageError
from ...image_files import check_array, check_whole
from ...names import type_name
from ...stage_config import read_stage_config, scope_of


@TRANSFORMS.register_module()
class StagePipeline(BaseTransform):
    """Everything that a stage's test pipeline does after loading the image.

    A data set of a :class:`~tinysaver_det.models.TinySaverDetector` gives the saver's input with it::

        pipeline = [dict(type='LoadImageFromFile'), dict(type='StagePipeline', config='mmdet::yolox/...')]

    The pipeline is read from the stage's own config, so it can't drift from it. Transforms that load
    annotations are kept here; :meth:`read`, which the detector uses for the base, leaves them out.

    Beside what the stage's pipeline packs, the data sample gets ``stage_pipeline`` (a digest by which the
    detector notices input that was made for another detector) and, when the image came as an array,
    ``ori_img``, from which the base's input is made if the image is handed over.

    Args:
        config, cfg_options, model, test_pipeline: As in the detector's ``saver`` and ``base``; its other keys
            are accepted and not used, so that one dict can serve both.
        name: The stage's name, for messages.

    Raises:
        ConfigError: The config has no usable test pipeline.
        ImageError: On use: the image cannot be read, its file ends too early, or a transform cannot take its size.
    """

    def __init__(self, name: str = 'saver', **stage):
        cfg = read_stage_config(stage, name)
        transforms = [dict(t) for t in cfg.test_pipeline]
        self.name = name
        loader, *rest = transforms
        if not type_name(loader).startswith('LoadImage'):
            raise ConfigError(f'the test pipeline of {name} must begin with the transform that loads the image '
                              f'(LoadImageFromFile), but begins with {type_name(loader)}')
        text = json.dumps(transforms, sort_keys=True, default=repr)  # a config that was written has sorted keys
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        options = {k: v for k, v in loader.items() if k not in ('type', 'backend_args')}
        # A plain loader gives what LoadImageFromFile already gave in front of this transform.
        self.reloads = bool(options) or type_name(loader) != 'LoadImageFromFile'
        with scope_of(cfg):
            self.loader = ROOT_TRANSFORMS.build(loader)
            self.array_loader = None
            if type_name(loader) == 'LoadImageFromFile':
                self.array_loader = ROOT_TRANSFORMS.build(
                    dict(type='mmdet.LoadImageFromNDArray', to_float32=loader.get('to_float32', False)))
            self.rest = Compose(rest)
            self.rest_without_annotations = Compose([t for t in rest if not _loads_annotations(t)])
        if self.rest.transforms and isinstance(self.rest.transforms[-1], StagePipeline):  # a cascade as a stage
            self.digest = self.rest.transforms[-1].digest

    def transform(self, results: dict) -> dict:
        """Make the stage's input of a loaded image.

        Args:
            results: With ``img`` (H, W, 3), ``img_path`` (None for an array), as mmdet's loaders leave it.

        Returns:
            dict: ``inputs`` and ``data_samples``, as the stage's pipeline packs them.
        """
        path = results.get('img_path')
        image = results['img'] if path is None else None
        if path is None:
            check_array(image)
        else:
            check_whole(path)
            if self.reloads:
                results = self.loader(results)
        return self._pack(self.rest, results, image)

    def read(self, image, img_id=0) -> dict:
        """Make the stage's input of an image file or array.

        Args:
            image: A path or URL, or an (H, W, 3) uint8 array in BGR order.
            img_id: The image's id in its data set.

        Returns:
            dict: ``inputs`` and ``data_samples``.

        Raises:
            ImageError: The file is missing or not a whole image, or the array has another shape.
            ConfigError: An array for a stage that loads images in a way of its own.
        """
        if isinstance(image, np.ndarray):
            if self.array_loader is None:
                raise ConfigError(f'{self.name} loads images with {type(self.loader).__name__}, so it takes files '
                                  f'and no arrays')
            check_array(image)
            results = self.array_loader(dict(img=image, img_id=img_id))
            return self._pack(self.rest_without_annotations, results, image)
        results = load_whole(self.loader, dict(img_path=image, img_id=img_id),
                             f'{image} cannot be read for {self.name}')
        return self._pack(self.rest_without_annotations, results, None)

    def read_all(self, images: Sequence, ids: Optional[Sequence[int]] = None) -> list:
        """Make the stage's inputs of some images, in threads.

        Args:
            images: As of :meth:`read`.
            ids: Of the images; 0 by default.

        Returns:
            list: For each image what :meth:`read` gives, or the exception with which it failed.
        """
        def tried(image, img_id):
            try:
                return self.read(image, img_id)
            except Exception as e:
                return e

        ids = [0] * len(images) if ids is None else ids
        if len(images) < 2:
            return list(map(tried, images, ids))
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            return list(pool.map(tried, images, ids))

    def _pack(self, transforms, results, image: Optional[np.ndarray]):
        results.setdefault('img_id', 0)
        path, (height, width) = results.get('img_path'), results['img'].shape[:2]
        try:
            packed = transforms(results)
        except cv2.error as e:  # such as of a side that becomes 0 pixels long
            raise ImageError(f'{"an image array" if path is None else f"image {path}"} of {width} x {height} pixels '
                             f'cannot be made an input of {self.name}: {" ".join(str(e).split())}') from e
        sample = packed['data_samples']
        sample.set_metainfo(dict(stage_pipeline=self.digest, img_path=results.get('img_path')))
        if image is not None:
            sample.set_field(image, 'ori_img', field_type='metainfo')  # set_metainfo would copy it
        return packed

    def __repr__(self):
        return f'{type(self).__name__}(name={self.name!r}, {self.loader}, {self.rest})'


def load_whole(load: Callable, results: dict, failure: str) -> dict:
    """Load an image file by a transform, with one sentence for a file that is missing, cut short or no image.

    Args:
        load: The transform.
        results: With ``img_path``.
        failure: How the sentence begins where the transform fails.

    Raises:
        ImageError: It cannot be loaded.
    """
    check_whole(results['img_path'])
    try:
        return load(results)
    except Exception as e:
        raise ImageError(f'{failure}: {type(e).__name__}: {" ".join(str(e).split())}') from e


def _loads_annotations(transform):
    return type_name(transform).startswith('Load') and 'Annotations' in type_name(transform)
