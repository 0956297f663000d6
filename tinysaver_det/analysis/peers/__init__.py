"""Published ways to decide which images the base gets, written anew from their descriptions, and the gate of our own.

One class per way; :data:`GATES` has them by the names that tables and files give them.
"""

from .adaptive_feeding import AdaptiveFeeding
from .closed_form import ClassWeighted, ClosedForm
from .count_per_size import CountPerSize
from .difficult_case import DifficultCase
from .gate import Gate
from .learned import Learned
from .orie import Orie

#: What makes each gate, by name, from a seed and annotations for class weights (or None).
GATES = {
    'mean_score': lambda seed, reference: ClosedForm(dict(type='MeanScore')),
    'max_score': lambda seed, reference: ClosedForm(dict(type='MaxScore')),
    'unsure_share': lambda seed, reference: ClosedForm(dict(type='UnsureShare')),
    'entropy': lambda seed, reference: ClosedForm(dict(type='BoxEntropy')),
    'class_weighted_entropy': lambda seed, reference: ClassWeighted(1.0, reference),
    'class_weighted_entropy_sqrt': lambda seed, reference: ClassWeighted(0.5, reference),
    'count': lambda seed, reference: ClosedForm(dict(type='BoxCount')),
    'count_per_size': lambda seed, reference: CountPerSize(),
    'dcsb': lambda seed, reference: DifficultCase(),
    'adaptive_feeding': lambda seed, reference: AdaptiveFeeding(),
    'orie': lambda seed, reference: Orie(seed),
    'learned': lambda seed, reference: Learned(seed),
}

__all__ = ['GATES', 'AdaptiveFeeding', 'ClassWeighted', 'ClosedForm', 'CountPerSize', 'DifficultCase', 'Gate',
           'Learned', 'Orie']
