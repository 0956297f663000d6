"""What a cascade would save, at what loss and how surely, from recorded results; neither torch nor mmdet."""

from .bootstrap import resamples, upper_bound
from .budget import Simulation, Stream, budget_for, simulate_budget
from .calibration import Calibration, calibrate
from .cascade import Cascade, Lighter, read_cascade
from .compare_gates import GateComparison, compare_gates
from .compare_ways import WayComparison, compare_ways
from .coverage import Coverage, coverage
from .curve import OperatingCurve, gains, operating_curve, policy_curve, random_band
from .evaluator import METRICS, CocoFigures, RoutedEvaluator
from .features import read_features, save_features
from .matching import Matched, match
from .metric import Metric
from .pair import Pair, read_pair, read_record
from .policies import fit_pixels, fit_resolved, policy_for
from .records import GroundTruth, Results, read_ground_truth, read_results
from .risk_control import hoeffding_bentkus, image_losses
from .scoring import class_masses, confidences, named_confidences, policy_rows
from .selection import SaverRank, Selection, select_savers
from .sweep import sweep
from .walk import ABSENT, Walk

__all__ = [
    'ABSENT', 'METRICS', 'Calibration', 'Cascade', 'CocoFigures', 'Coverage', 'GateComparison', 'GroundTruth',
    'Lighter', 'Matched', 'Metric', 'OperatingCurve', 'Pair', 'Results', 'RoutedEvaluator', 'SaverRank', 'Selection',
    'Simulation', 'Stream', 'Walk', 'WayComparison', 'budget_for', 'calibrate', 'class_masses', 'compare_gates',
    'compare_ways', 'confidences', 'coverage', 'fit_pixels', 'fit_resolved', 'gains', 'hoeffding_bentkus',
    'image_losses', 'match', 'named_confidences', 'operating_curve', 'policy_curve', 'policy_for', 'policy_rows',
    'random_band', 'read_cascade', 'read_features', 'read_ground_truth', 'read_pair', 'read_record', 'read_results',
    'resamples', 'save_features', 'select_savers', 'simulate_budget', 'sweep', 'upper_bound']
