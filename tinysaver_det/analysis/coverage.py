"""Whether what calibration promises holds: calibrate on one part of the images, test on the rest, many times."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..confidence import Confidence
from ..errors import ConfigError
from ..routing import build_policy
from .calibration import calibrate
from .pair import Pair
from .risk_control import image_losses
from .scoring import policy_rows
from .walk import Walk


@dataclass(frozen=True)
class Coverage:
    """How often a target was met on images that were not calibrated on.

    Attributes:
        target (tuple[str, float]): Which, and its number.
        certainty (float): What was promised.
        splits (int): Random halves.
        found (int): Splits in which a threshold was found.
        met (int): Those in which it met the target on the other half.
        saved (float): Mean share of the base's GFLOPs that was saved on the other halves; 0 where none was found.
        quantity (float): Mean over the found ones of what the target limits, on the other halves.
    """

    target: tuple
    certainty: float
    splits: int
    found: int
    met: int
    saved: float
    quantity: float

    @property
    def share(self) -> float:
        """Share of the splits in which the promise held: the target was met, or none was found and none promised.

        Without a threshold the base alone is left, which loses nothing; a budget it does not meet.
        """
        if self.target[0] in ('max_drop', 'max_image_loss'):
            return (self.met + self.splits - self.found) / self.splits
        return self.met / self.found if self.found else float('nan')


def coverage(pair: Pair, confidence: Confidence, scores, target, splits: int = 200, seed: int = 0, progress=None,
             fit: Optional[Callable] = None, **settings) -> Coverage:
    """Calibrate on random halves and test on the others.

    Args:
        pair, confidence, scores, target: As for :func:`calibrate`.
        splits: How many.
        seed: Of the splits.
        progress: Called with the number of finished splits and of all.
        fit: Makes confidence and policy of a half, in place of those given, where they are fitted on what is calibrated
            on.
        settings: More for :func:`calibrate`.
    """
    rng, images = np.random.default_rng(seed), len(pair.truth)
    if splits < 1 or images < 4:
        raise ConfigError(f'coverage needs at least 1 split and 4 images, but got {splits} and {images}')
    kind, limit = target
    met, saved, quantities = 0, [], []
    pair.answers  # noqa: B018  (merged once, for all parts)
    for k in range(splits):
        shuffled = rng.permutation(images)
        half, rest = np.sort(shuffled[:images // 2]), np.sort(shuffled[images // 2:])
        calibrated = pair.take(half)
        if fit is not None:
            confidence, settings['policy'] = fit(calibrated)
            scores = policy_rows(pair.saver, pair.truth, confidence, settings['policy'])
        found = calibrate(calibrated, confidence, scores[half], target, for_images=len(rest), seed=k, **settings)
        if found.point is not None:
            tested, own = pair.take(rest), scores[rest]
            chosen = build_policy(found.point.policy)(own)
            routed = Walk.one(chosen)
            value, = found.curve.metric.values(tested.evaluator, routed)[0]
            alone, = found.curve.metric.values(tested.evaluator, Walk.one(np.full(len(rest), tested.base_option)))[0]
            gflops = routed.totals(tested.costs)[0] / len(rest)
            share = 1 - gflops / tested.base_gflops.mean()
            quantity = dict(max_drop=alone - value, max_gflops=gflops, min_saved=share,
                            handover=(chosen > 0).mean()).get(kind)
            if kind == 'max_image_loss':
                losses = image_losses(tested.evaluator, found.curve.metric)
                quantity = float(routed.totals(losses)[0] / len(rest))
            met += quantity >= limit if kind == 'min_saved' else quantity <= limit
            saved.append(share)
            quantities.append(quantity)
        if progress is not None:
            progress(k + 1, splits)
    return Coverage((kind, limit), settings.get('certainty', 0.95), splits, len(quantities), int(met),
                    float(np.sum(saved) / splits), float(np.mean(quantities)) if quantities else float('nan'))
