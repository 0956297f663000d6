"""A COCO data set whose objects have scores."""

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class ScoredCocoDataset(CocoDataset):
    """mmdet's CocoDataset whose ``instances`` also have the ``score`` of their annotation, 1 where it has none.

    Such files are what ``tools/distill_saver.py`` writes; :class:`SampleLabels` uses the scores.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """As CocoDataset's, with ``score`` in each of ``instances``."""
        info = super().parse_data_info(dict(raw_data_info, raw_ann_info=[]))
        for annotation in raw_data_info['raw_ann_info']:  # one by one, since it leaves some out
            for instance in super().parse_data_info(dict(raw_data_info, raw_ann_info=[annotation]))['instances']:
                info['instances'].append(dict(instance, score=float(annotation.get('score', 1))))
        return info
