"""A comparison of trainings in several precisions, printed and drawn."""

import numpy as np
from rich.table import Table

from ..files import whole_file
from .console import console
from .sweep_report import COLORS

BASELINE = 'float32'


def print_training(runs, times=()) -> None:
    """Print the table of a comparison, and what its figures are.

    Args:
        runs (list[TrainingRun]): What :mod:`tinysaver_det.engine.benchmark_training` trained.
        times (list[StepTime]): Of some of the precisions; none where they were not measured.
    """
    out = console()
    out.print(training_table(runs, times))
    for text in sentences(times):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def training_table(runs, times=()) -> Table:
    """A rich table with a row for each precision."""
    epochs, seeds = {r.epochs for r in runs}, {r.seed for r in runs}
    table = Table(title=f'{"/".join(map(str, sorted(epochs)))} epochs, {len(runs)} runs with seeds '
                        f'{", ".join(map(str, sorted(seeds)))}', title_justify='left')
    table.add_column('precision', no_wrap=True)
    for head in ('mAP (min to max)', f'against {BASELINE}', 'B', 'optimiser ms', 'step ms', 'lost', 'stored', 'EDQ',
                 'of |u|'):
        table.add_column(head, justify='right', no_wrap=True)
    times = {t.precision: t for t in times}
    for precision in dict.fromkeys(r.precision for r in runs):
        of = [r for r in runs if r.precision == precision]
        values = [r.mean_ap for r in of]
        late, time = last_third(of), times.get(precision)
        table.add_row(
            precision, f'{np.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})',
            _paired(paired(runs, precision)), f'{of[0].weights:.0f} + {of[0].state:.0f}',
            *(('-', '-') if time is None else (f'{time.optimizer * 1e3:.1f} ({time.optimizer_ratio:.2f})',
                                               f'{time.whole * 1e3:.1f} ({time.whole_ratio:.2f})')),
            *(('-',) * 4 if late is None else (f'{late["lost"]:.1%}', f'{late["lost_stored"]:.1%}',
                                               f'{late["edq"]:.3g}', f'{late["quality"]:.3f}')))
    return table


def sentences(times=()) -> list:
    """Sentences that belong under the table."""
    texts = [f"mAP: exact, on the config's validation data after the last epoch, without averaged weights. Against "
             f'{BASELINE}: mean of the differences of runs with the same seed, and in brackets the least and the '
             'largest of them.',
             'B: bytes per parameter of the weights and of what the optimiser keeps; norms are in float32. '
             'Lost: share of the updates other than 0 of which nothing was kept, stored: which left the bfloat16 '
             'weight as it was, EDQ: effective descent quality, also as share of the length |u| of the intended update '
             '(Collage, arXiv 2405.03637); means over the last third of the training.']
    if times:
        texts.append(f'ms: median of a step of the optimiser and of a whole step, with the batch at hand, and in '
                     f'brackets over {BASELINE}, measured in turn (processor time where torch has one thread).')
    return texts


def paired(runs, precision: str):
    """(S,) difference of mAP to float32 of each seed that both have; None for float32 itself, or where none is."""
    base = {r.seed: r.mean_ap for r in runs if r.precision == BASELINE}
    found = [r.mean_ap - base[r.seed] for r in runs if r.precision == precision and r.seed in base]
    return np.array(found) if found and precision != BASELINE else None


def last_third(runs):
    """Means over runs and the last third of their iterations of ``lost``, ``lost_stored``, ``edq`` and ``quality`` (all
    of ``edq`` over all of ``norm``); None in float32."""
    kept = {k: [] for k in ('lost', 'lost_stored', 'edq', 'norm')}
    for run in runs:
        if run.descent and run.descent['iter']:
            late = np.array(run.descent['iter']) > run.iterations * 2 / 3
            for k, values in kept.items():
                values.extend(np.array(run.descent[k])[late])
    if not kept['lost']:
        return None
    means = {k: float(np.mean(v)) for k, v in kept.items()}
    return dict(means, quality=means['edq'] / means['norm'] if means['norm'] else np.nan)


def training_plot(runs, path) -> None:
    """Draw the share of updates that were lost altogether, and EDQ/|u|, over the training; mean of the seeds. The file
    is whole or absent.

    Args:
        runs: As above, some with ``descent``; one that ended before the first look at it is left out.
        path: A file whose suffix matplotlib knows (.png, .svg, .pdf).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    runs = [r for r in runs if r.descent and r.descent['iter']]
    for k, precision in enumerate(dict.fromkeys(r.precision for r in runs)):
        of = [r for r in runs if r.precision == precision]
        count = min(len(r.descent['iter']) for r in of)
        x = np.array(of[0].descent['iter'][:count]) / of[0].iterations * of[0].epochs
        lost, edq, norm = (np.mean([r.descent[name][:count] for r in of], axis=0) for name in ('lost', 'edq', 'norm'))
        color = COLORS[k % len(COLORS)]
        left.plot(x, _smooth(lost) * 100, color=color, label=precision)
        right.plot(x, _smooth(edq) / np.maximum(_smooth(norm), 1e-300), color=color, label=precision)
    left.set(xlabel='epoch', ylabel='lost updates in %', ylim=(0, None))
    right.set(xlabel='epoch', ylabel='EDQ / |u|')
    left.set_title('updates of which nothing was kept', fontsize=10)
    right.set_title('effective descent quality (1: all arrives)', fontsize=10)
    left.legend(frameon=False, fontsize=8)
    with whole_file(path, 'wb') as f:
        figure.savefig(f, format=str(path).rsplit('.', 1)[-1], dpi=150)


def _smooth(values, width=5):
    """Mean of each value and its neighbours."""
    width = min(width, len(values))
    counts = np.convolve(np.ones(len(values)), np.ones(width), 'same')
    return np.convolve(values, np.ones(width), 'same') / counts


def _paired(values):
    return '-' if values is None else f'{values.mean():+.4f} ({values.min():+.4f} to {values.max():+.4f})'
