"""The difficult-case discriminator of a small and a big model."""

import numpy as np

from .gate import Gate
from .top_boxes import areas, relative_boxes

SHOWN = 0.5  # a box from this score on is one that a model shows
NUMBERS = np.arange(1, 11)  # thresholds that are tried
AREAS = np.arange(91) / 100


class DifficultCase(Gate):
    """DCSB's rule: an image is difficult when the saver overlooks something, and sees many objects or a small one.

    Three thresholds are found on the calibration images. Boxes are *shown* from 0.5 on; they are *expected* from the
    score at which there are as many boxes as annotated objects. An image with as many shown as expected boxes is easy.
    Of the others those are difficult that have more than N expected boxes, or one that covers less than a share A of
    the image; N and A are those that tell best, by accuracy, on which images the base shows more boxes than the saver.

    The rule only says yes or no. For an order, both thresholds move together: an image comes the earlier the further
    the worse of n / N and A / a is above 1. So the rule itself is one point of the curve, and images with as many shown
    as expected boxes come last.

    Source: Cao et al., "Edge-Cloud Collaborated Object Detection via Difficult-Case Discriminator" (arXiv 2108.12858;
    ICDCS 2023): the discriminator with number of objects and minimum area ratio. Thresholds as ORIE's authors fit them
    for their comparison (``baseline.py`` of their code), with A from 0 to 0.9.
    """

    learns_from = 'pair'

    def fit(self, pair, metric):
        found = relative_boxes(pair)
        objects = int((~pair.truth.crowd).sum())
        scores = np.sort(np.concatenate([d.scores for d, _ in found]))[::-1]
        self.expected_from = float(scores[objects - 1]) if 0 < objects <= len(scores) else 0.0
        number, area, easy = self._seen(found)
        shown = [np.bincount(r.image[r.scores >= SHOWN], minlength=len(pair.truth)) for r in (pair.saver, pair.base)]
        difficult = shown[1] > shown[0]
        said = ~easy & ((number > NUMBERS[:, None, None]) | (area < AREAS[:, None]))  # (numbers, areas, images)
        best = np.unravel_index((said == difficult).mean(axis=2).argmax(), said.shape[:2])
        self.number, self.area = int(NUMBERS[best[0]]), float(AREAS[best[1]])

    def _seen(self, found):
        """(I,) number of expected boxes, the share of the image of their smallest, and whether all are shown."""
        number, area, easy = [], [], []
        for detections, boxes in found:
            expected = detections.scores >= self.expected_from
            number.append(expected.sum())
            area.append(areas(boxes[expected]).min(initial=1.0) if expected.any() else 0.0)
            easy.append(expected.sum() == (detections.scores >= SHOWN).sum())
        return np.array(number), np.array(area), np.array(easy)

    def scores(self, pair):
        number, area, easy = self._seen(relative_boxes(pair))
        with np.errstate(divide='ignore', invalid='ignore'):
            small = np.where(self.area > 0, self.area / area, 0.0)
        return (easy + 1 / (1 + np.maximum(number / self.number, small))) / 2
