"""What a cascade answers, out of its stages' instances."""

import torch
from mmengine.structures import InstanceData

from ..errors import ConfigError
from ..merging import Replace
from .stage import to_detections


def aligned_instances(stage: str, instances: InstanceData, detector) -> InstanceData:
    """Instances with aligned scores, in the same order; the same object without an alignment.

    Args:
        stage: 'saver' or 'base', whose they are.
        instances: Target classes only.
        detector (TinySaverDetector): Has the alignment.
    """
    if detector.alignment is None:
        return instances
    scores = detector.alignment(stage, instances.scores.detach().float().cpu().numpy(), instances.labels.cpu().numpy(),
                                detector.target_classes)
    found = instances.clone()
    found.scores = torch.from_numpy(scores).to(instances.scores.device)
    return found


def answer_of_both(saver: InstanceData, base: InstanceData, image_size, detector) -> InstanceData:
    """The answer to an image that is handed over.

    Args:
        saver, base: Raw instances of both stages, target classes only.
        image_size: (height, width) of the original image.
        detector (TinySaverDetector): Has alignment and merge.

    Raises:
        ConfigError: There are masks to be fused.
    """
    base = aligned_instances('base', base, detector)
    if isinstance(detector.merge, Replace):
        return base
    for stage, instances in (('saver', saver), ('base', base)):
        if 'masks' in instances:
            raise ConfigError(f"the {stage} gives masks, which merge {detector.merge} cannot put together: use "
                              "merge='replace'")
    fused = detector.merge(to_detections(aligned_instances('saver', saver, detector), image_size),
                           to_detections(base, image_size))
    return InstanceData(**{name: torch.tensor(getattr(fused, name)).to(getattr(base, name).device)
                           for name in ('bboxes', 'scores', 'labels')})
