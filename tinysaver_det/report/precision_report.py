"""A table of detectors in several precisions, printed, drawn and saved."""

import json
import os
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from ..analysis.precision import COSTS, FILE, PrecisionTable
from ..files import whole_file
from .console import console
from .selection_report import print_selection
from .summary import plain

PICTURE = 'precision.png'
CRITERIA = dict(mAP='mAP', delta_c='delta-C', saved='share of ms saved')
MARKERS = dict(float32='o', bfloat16='s', float16='D', int8='^')


def print_precisions(table: PrecisionTable) -> None:
    """Print the table and what it says."""
    out = console()
    out.print(variants_table(table))
    for text in sentences(table):
        out.print(text, markup=False, highlight=False, soft_wrap=True)
    if table.selection is not None:
        print_selection(table.selection)
    if table.contests:
        out.print(contests_table(table))
        text = ('ahead: by how much the best in a low precision is better than the best in float32 within the budget '
                f'(below 0: worse; a lower delta-C is better), with its {table.certainty:.0%} interval over '
                f'{table.resamples} resamples of the images. Larger: of more GFLOPs, by its network or by its input. '
                'Latency is taken as it was measured, and an image that is handed over costs what both take, each from '
                'the file. Each interval stands by itself, and the two of a row were found best on these same images')
        if len({v.engine for v in table.variants}) > 1:
            text += ('. Both engines compete, also as a saver and a base that no single cascade runs; name one with '
                     '--engines to see what precision alone does')
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def variants_table(table: PrecisionTable) -> Table:
    """A rich table of all variants."""
    shown = Table(title=f'{table.images} images; {table.timed} of them timed one by one, median of {table.rounds} '
                        f'interleaved rounds, {table.threads} thread{"s" * (table.threads > 1)}', title_justify='left')
    shown.add_column('variant', no_wrap=True)
    share = f'{table.certainty:.0%}'
    heads = ['GFLOPs', 'ms', 'of rounds', 'of float32', 'MiB', 'added', 'weights, MB', 'start, s']
    for head in heads + ['mAP', share] * (table.annotations is not None):
        shown.add_column(head, justify='right', no_wrap=True)
    for k, v in enumerate(table.variants):
        full = next((f for f in table.variants if (f.stage, f.engine, f.precision) == (v.stage, v.engine, 'float32')),
                    None)
        cells = [f'{v.gflops:.4g}', f'{v.latency:.2f}', '{:.2f} to {:.2f}'.format(*v.latency_range),
                 '-' if full is None else f'{v.latency / full.latency:.2f}', f'{v.memory:.0f}',
                 f'{v.added_memory:.0f}', f'{v.cost("weights"):.3f}', f'{v.start:.1f}']
        if v.value is not None:
            cells += [f'{v.value:.4f}', '{:.3f} to {:.3f}'.format(*v.value_interval)]
        last = k + 1 == len(table.variants) or table.variants[k + 1].stage != v.stage
        shown.add_row(escape(v.name), *cells, end_section=last)
    return shown


def contests_table(table: PrecisionTable) -> Table:
    """A rich table: by role, criterion and budget what is best in a low precision, what in float32, and what wins."""
    shown = Table(title=f'a larger detector in a low precision, or a smaller one in float32? (savers for '
                        f'{escape(table.base)})', title_justify='left')
    for head in ('as', 'by', 'budget', 'low precision', 'float32', 'ahead', f'{table.certainty:.0%}', 'better'):
        shown.add_column(head, justify='right' if head in ('budget', 'ahead') else 'left')
    before = None
    for c in table.contests:
        key = c.role, c.criterion, c.cost
        if before not in (None, key):
            shown.add_section()
        before = key
        low, high = c.budget
        unit = COSTS[c.cost][0]
        shown.add_row(c.role, CRITERIA[c.criterion], f'{low:.4g}{"+" if high is None else f" to {high:.4g}"} {unit}',
                      escape(c.low or '-'), escape(c.high or '-'), '-' if c.ahead is None else f'{c.ahead:+.4f}',
                      '' if c.ahead is None else '{:+.3f} to {:+.3f}'.format(*c.ahead_interval), c.verdict)
    return shown


def sentences(table: PrecisionTable) -> list:
    """Sentences that belong under the table of variants."""
    texts = [f'{table.machine}. ms: from the file of one image to its boxes. MiB: the most that its process held; '
             'added: of that what was not there before the model was loaded. torch: convolutions have taken over their '
             'norms; onnx: the graph of an export, in onnxruntime.', *table.skipped, *table.notes]
    for choice in table.choices:
        limits = ' and '.join(f'{limit:g} {COSTS[k][0]} of {k}' for k, limit in choice.limits.items())
        if choice.best is None:
            near = table.variant(choice.nearest)
            costs = ', '.join(f'{near.cost(k):.4g} {COSTS[k][0]}' for k in choice.limits)
            texts.append(f'Within {limits} there is no variant; the nearest is {near.name} with {costs}.')
            continue
        best = table.variant(choice.best)
        texts.append(f'Within {limits} the best is {best.name} with mAP {best.value:.4f}'
                     + (f'; these images do not show it to be better than {" or ".join(choice.alike)}.'
                        if choice.alike else '.'))
    return texts


def save_precisions(table: PrecisionTable, folder: str) -> list:
    """Write ``precision.json``, and where there is mAP ``precision.png``; both are whole or absent.

    Returns:
        list[str]: Their paths.
    """
    paths = [os.path.join(folder, FILE)]
    with whole_file(paths[0]) as f:
        json.dump(plain(asdict(table)), f, indent=2, allow_nan=False)
        f.write('\n')
    if table.annotations is not None:
        paths.append(os.path.join(folder, PICTURE))
        plot_precisions(table, paths[1])
    return paths


def plot_precisions(table: PrecisionTable, path: str) -> None:
    """Draw mAP against latency, with the variants of one detector joined; the file is whole or absent."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(7, 4.4), layout='constrained')
    axes = figure.subplots()
    colors = ('#2e7d32', '#d84315', '#1a237e', '#6a1b9a', '#00838f', '#795548')
    for k, stage in enumerate(dict.fromkeys(v.stage for v in table.variants)):
        color = colors[k % len(colors)]
        own = sorted((v for v in table.variants if v.stage == stage), key=lambda v: v.latency)
        axes.plot([v.latency for v in own], [v.value for v in own], color=color, linewidth=1, zorder=1)
        for v in own:
            low, high = v.value_interval
            axes.errorbar(v.latency, v.value, [[max(0.0, v.value - low)], [max(0.0, high - v.value)]], color=color,
                          alpha=0.35, zorder=0)
            axes.scatter(v.latency, v.value, s=55, marker=MARKERS[v.precision], edgecolor=color, zorder=2,
                         color=color if v.engine == 'torch' else 'white')
        axes.annotate(stage.replace('$', r'\$'), (own[0].latency, own[0].value), (7, -13), textcoords='offset points',
                      color=color)
    axes.set_xscale('log')
    axes.set(xlabel=f'ms per image ({table.threads} thread{"s" * (table.threads > 1)}, log)', ylabel='mAP')
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter('{x:g}')
    axes.tick_params(axis='x', which='minor', labelsize=7)
    precisions = [p for p in MARKERS if any(v.precision == p for v in table.variants)]
    axes.legend(handles=[*(Line2D([], [], linestyle='', marker=MARKERS[p], color='grey', label=p) for p in precisions),
                         *(Line2D([], [], linestyle='', marker='o', color='grey', markerfacecolor=face, label=e)
                           for e, face in (('torch', 'grey'), ('onnxruntime', 'white')))], frameon=False, fontsize=8,
                loc='upper left', bbox_to_anchor=(1, 1))
    axes.margins(0.12)
    axes.set_title(f'{table.images} images, {table.certainty:.0%} intervals', fontsize=10)
    with whole_file(path, 'wb') as f:
        figure.savefig(f, format=path.rsplit('.', 1)[-1], dpi=150)
