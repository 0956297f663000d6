"""What a cascade would save, at what loss and how surely, from recorded results; neither torch nor mmdet."""

from .records import GroundTruth, Results, read_ground_truth, read_results

__all__ = ['GroundTruth', 'Results', 'read_ground_truth', 'read_results']
