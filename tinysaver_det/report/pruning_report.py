"""What savers of fewer and fewer GFLOPs save for a base: printed, saved, plotted."""

import json
import os
from dataclasses import asdict, dataclass

from ..files import whole_file
from .console import console
from .selection_report import selection_table


@dataclass(frozen=True)
class PruningReport:
    """Pruned savers, compared.

    Attributes:
        selection (Selection): The savers, pruned and not, ranked for the base.
        whole (str): Name of the saver that isn't pruned.
    """

    selection: object
    whole: str

    @property
    def savers(self) -> list:
        """[SaverRank] the most costly first."""
        return sorted(self.selection.savers, key=lambda s: -s.gflops)

    @property
    def best(self):
        """SaverRank of the saver with which most is saved, of equal ones the most accurate: smaller ones than this
        no longer pay."""
        return max(self.savers, key=lambda s: (s.saved, s.value))

    @property
    def best_by_delta(self):
        """SaverRank of the lowest delta-C."""
        return min(self.savers, key=lambda s: s.delta_c)

    def sentences(self) -> list:
        """Sentences that belong under the table."""
        best, found = self.best, []
        whole = next((s for s in self.savers if s.name == self.whole), None)
        if best.saved <= 0:
            found.append(f'No saver saves anything at a loss of {self.selection.drop * 100:g} points.')
        else:
            than = '' if whole is None or best is whole else f' against {whole.saved:.1%} of {whole.name}'
            found.append(f'Most is saved with {best.name} ({best.gflops:.4g} GFLOPs): {best.saved:.1%} of the GFLOPs '
                         f'of {self.selection.base} at a loss of {self.selection.drop * 100:g} points{than}.')
            smaller = [s for s in self.savers if s.gflops < best.gflops]
            found.append('Below it, smaller no longer pays: '
                         + ', '.join(f'{s.saved:.1%} with {s.gflops:.4g} GFLOPs' for s in smaller) + '.'
                         if smaller else 'It is the smallest: a still smaller one may save more.')
            alike = [s.name for s in self.savers if s is not best and s.saved_interval[1] >= best.saved_interval[0]
                     and s.saved_interval[0] <= best.saved_interval[1]]
            if alike:
                found.append(f'By the intervals ({self.selection.certainty:.0%}, resampled images) these images '
                             f'may not tell it from {", ".join(alike)}.')
        found.append(f'delta-C is lowest with {self.best_by_delta.name}.')
        return found + list(self.selection.skipped)

    def print(self) -> None:
        """Print the table and what it says."""
        out = console()
        out.print(selection_table(self.selection))
        for text in self.sentences():
            out.print(text, markup=False, highlight=False, soft_wrap=True)

    def to_dict(self) -> dict:
        """What ``curve.json`` holds."""
        return dict(whole=self.whole, best=self.best.name, best_by_delta_c=self.best_by_delta.name,
                    **asdict(self.selection))

    def plot(self, path) -> None:
        """Draw what is saved and delta-C against the saver's GFLOPs; the file is whole or absent.

        Args:
            path: A file whose suffix matplotlib knows (.png, .svg, .pdf).
        """
        from matplotlib.figure import Figure

        savers, best = self.savers, self.best
        x = [s.gflops for s in savers]
        figure = Figure(figsize=(7.5, 6), layout='constrained')
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, color, values, intervals in (
                (upper, '#0072b2', [100 * s.saved for s in savers],
                 [[100 * v for v in s.saved_interval] for s in savers]),
                (lower, '#d55e00', [s.delta_c for s in savers], [s.delta_c_interval for s in savers])):
            axes.fill_between(x, *zip(*intervals), color=color, alpha=0.15, linewidth=0)
            axes.plot(x, values, '-o', color=color, markersize=5)
            axes.axvline(best.gflops, color='black', linewidth=0.8, dashes=(3, 3))
            for s, value in zip(savers, values):
                if s.name == self.whole:
                    axes.scatter(s.gflops, value, color='black', marker='s', s=45, zorder=5, label='not pruned')
        upper.scatter(best.gflops, 100 * best.saved, color='#0072b2', marker='*', s=190, zorder=6, edgecolor='white',
                      label='smaller no longer pays')
        by_delta = self.best_by_delta
        lower.scatter(by_delta.gflops, by_delta.delta_c, color='#d55e00', marker='*', s=190, zorder=6,
                      edgecolor='white', label='lowest')
        lower.axhline(0, color='black', linewidth=0.5, alpha=0.4)
        for s in savers:
            upper.annotate(f'mAP {s.value:.3f}' if self.selection.metric == 'mAP' else f'{s.value:.3f}',
                           (s.gflops, 100 * s.saved), (0, 9), textcoords='offset points', ha='center', fontsize=8)
        upper.set(ylabel=f'% of the base\'s GFLOPs saved\nat a loss of {self.selection.drop * 100:g} points')
        lower.set(ylabel='delta-C', xlabel='GFLOPs of the saver (1 multiply-add = 1)')
        upper.margins(y=0.2)
        lower.set_xlim(left=0)
        upper.set_title(f'{self.selection.images} images; base: '
                        f'{self.selection.base_gflops:.4g} GFLOPs, {self.selection.metric} '
                        f'{self.selection.base_value:.3f}', fontsize=10)
        for axes in (upper, lower):
            axes.legend(loc='best', frameon=False, fontsize=8)
        with whole_file(path, 'wb') as f:
            figure.savefig(f, format=str(path).rsplit('.', 1)[-1], dpi=150)

    def save(self, folder) -> list:
        """Write ``curve.json`` and ``curve.png``; each is whole or absent.

        Returns:
            list[str]: Their paths.
        """
        paths = [os.path.join(folder, name) for name in ('curve.json', 'curve.png')]
        with whole_file(paths[0]) as f:
            json.dump(self.to_dict(), f, indent=2, allow_nan=False)
            f.write('\n')
        self.plot(paths[1])
        return paths
