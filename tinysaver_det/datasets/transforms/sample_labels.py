"""Soft labels for any detector: each is there as often as it is sure."""

from typing import Optional

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS

from ...errors import ConfigError


@TRANSFORMS.register_module()
class SampleLabels(BaseTransform):
    """Keep each label, whenever its image is loaded, with the probability that its score tells.

    A loss is a function of the set of labels. A label of score p that is drawn anew each time is there in a share p of
    the passes over the image and absent in the others, so that the mean of the loss over the passes is its expectation
    over labels that are right with these probabilities: for a detector that sums over objects, each object's term
    weighs p, and what the label covers is background with weight 1 - p. No head has to know of scores, and each
    sample is one that the detector could have been given, so that assigners see whole boxes.

    It stands before the transform that loads annotations, where boxes, classes and masks are still together, so that
    a label stays or goes as a whole. Chances come from numpy's global generator, which mmengine seeds in each worker
    of a data loader. Workers that don't persist are seeded alike in each epoch, so that images must come in another
    order then (``shuffle``), or their labels are those of the epoch before.

    Args:
        floor: Labels of a lower score are never kept; in [0, 1].

    Raises:
        ConfigError: A floor outside; on use: labels without scores, which only a ScoredCocoDataset has.
    """

    def __init__(self, floor: float = 0.0):
        if not 0 <= floor <= 1:
            raise ConfigError(f'floor of SampleLabels must lie in [0, 1], but got {floor!r}')
        self.floor = floor

    def transform(self, results: dict) -> Optional[dict]:
        """Thin ``results['instances']`` out, each a dict with ``score``."""
        instances = results.get('instances')
        if instances is None or any('score' not in i for i in instances):
            raise ConfigError('SampleLabels needs labels with scores, but those of '
                              f'{results.get("img_path", "an image")} have none: use it before LoadAnnotations, with '
                              "a data set of type='ScoredCocoDataset'")
        drawn = np.random.random_sample(len(instances))
        results['instances'] = [i for i, chance in zip(instances, drawn) if chance < i['score'] >= self.floor]
        return results

    def __repr__(self):
        return f'{type(self).__name__}(floor={self.floor})'
