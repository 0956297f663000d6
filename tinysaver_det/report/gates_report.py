"""A comparison of gates, printed and saved."""

import json

from rich.markup import escape
from rich.table import Table

from ..files import whole_file
from .console import console
from .summary import plain

DROPS = ('0.005', '0.01', '0.02')  # that tables show


def print_gates(found) -> None:
    """Print the tables of a comparison and what they say.

    Args:
        found (GateComparison): What :func:`tinysaver_det.analysis.compare_gates.compare_gates` found.
    """
    out = console()
    for table in (gates_table(found), handover_table(found), *group_tables(found), transfer_table(found)):
        if table is not None:
            out.print(table)
    for text in sentences(found):
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def gates_table(found) -> Table:
    """A rich table: mean retention of each gate, how far ours is above it, and GFLOPs saved, with intervals."""
    curve = found.gates[0].curve
    table = Table(title=escape(f'{found.title}: {found.images} images, {len(found.classes)} classes, {found.folds} '
                               f'folds; saver {curve.saver:.3f} {found.metric.name}, base {curve.base:.3f}'),
                  title_justify='left')
    share = f'{found.certainty:.0%}'
    ours = any(g.behind for g in found.gates)
    table.add_column('gate', no_wrap=True)
    for head in (f'retention ({share})', *([f'learned is above it ({share})'] if ours else []),
                 *(f'saved at {float(d) * 100:g} ({share})' for d in DROPS)):
        table.add_column(head, justify='right')
    for g in found.gates:
        saved = g.curve.saved_at_drop()
        behind = '' if g.behind is None else '{:+.3f} ({:+.3f} to {:+.3f})'.format(*g.behind)
        table.add_row(g.name, f'{g.retention:.3f} ({_to(g.retention_interval)})', *([behind] if ours else []),
                      *('{:.0%} ({:.0%} to {:.0%})'.format(saved[d], *g.saved_intervals[d]) for d in DROPS))
    return table


def handover_table(found) -> Table:
    """A rich table: retention of each gate by handover."""
    table = Table(title='retention by handover', title_justify='left')
    table.add_column('gate', no_wrap=True)
    for h in found.gates[0].curve.retention():
        table.add_column('mean' if h == 'mean' else f'{float(h):.0%}', justify='right')
    for g in found.gates:
        table.add_row(g.name, *(f'{v:.3f}' for v in g.curve.retention().values()))
    return table


def group_tables(found) -> list:
    """Rich tables by class group: mean retention, and GFLOPs saved at one point; none where none were asked for."""
    if not found.groups:
        return []
    columns = {'all': found, **found.groups}
    tables = []
    for title, show in (('mean retention by class group', lambda g: f'{g.retention:.3f}'),
                        ('GFLOPs saved at 1 point by class group',
                         lambda g: f'{g.curve.saved_at_drop()["0.01"]:.0%}')):
        table = Table(title=title, title_justify='left')
        table.add_column('gate', no_wrap=True)
        for name in columns:
            table.add_column(escape(name), justify='right')
        table.add_row('images with it', *(f'{c.holding:.0%}' for c in columns.values()))
        for stage in ('saver', 'base'):
            table.add_row(f'{stage} alone', *(f'{getattr(c.gates[0].curve, stage):.3f}' for c in columns.values()),
                          end_section=stage == 'base')
        for k, gate in enumerate(found.gates):
            table.add_row(gate.name, *(show(c.gates[k]) for c in columns.values()))
        tables.append(table)
    return tables


def transfer_table(found):
    """A rich table of gates fitted on other pairs; None where there are none."""
    if not found.transfer:
        return None
    table = Table(title=f'mean retention on {escape(found.title)} of gates fitted elsewhere', title_justify='left')
    for head in ('gate', 'fitted on'):
        table.add_column(head, no_wrap=True)
    share = f'{found.certainty:.0%}'
    for head in ('retention', share, f'above {found.transfer[0].default}', share):
        table.add_column(head, justify='right')
    for t in found.transfer:
        table.add_row(t.gate, escape(t.fitted_on), f'{t.retention:.3f}', _to(t.interval), f'{t.ahead[0]:+.3f}',
                      f'{t.ahead[1]:+.3f} to {t.ahead[2]:+.3f}')
    return table


def sentences(found) -> list:
    """Sentences that belong under the tables."""
    texts = [f'Retention: share of the gain from saver to base that is kept, mean over handovers of 10% to 90%. Saved: '
             f"best share of the base's GFLOPs (1 multiply-add = 1) at a loss of so many points, on these images. Each "
             f'gate was fitted on {found.folds - 1} of {found.folds} folds and scored the images of the other; the '
             f'scores of all folds make one order. Intervals: {found.certainty:.0%}, {found.resamples} resamples of '
             'the images, without fitting again.']
    if any(g.name == 'random' for g in found.gates):
        texts.append('random: mean of 20 orders, with the interval of a single one.')
    if found.groups:
        texts.append("By class group: most images have no box of a group's classes; each fold's fitted gate has one "
                     'score for all of these, and where those scores differ they are handed over fold by fold.')
    return texts + list(found.notes)


def comparison_dict(found) -> dict:
    """What the JSON file holds; a figure that doesn't exist is None."""
    return plain(dict(
        title=found.title, images=found.images, classes=list(found.classes), metric=found.metric.name,
        scores=found.metric.scores and list(found.metric.scores), folds=found.folds, seed=found.seed,
        resamples=found.resamples, certainty=found.certainty, **_figures(found),
        groups={n: dict(classes=list(g.classes), **_figures(g)) for n, g in found.groups.items()},
        transfer=[dict(gate=t.gate, fitted_on=t.fitted_on, retention=t.retention, retention_interval=t.interval,
                       above_default=t.ahead[0], above_default_interval=t.ahead[1:],
                            default=t.default) for t in found.transfer],
        notes=found.notes))


def save_gates(found, path) -> None:
    """Write the comparison as JSON; the file is whole or absent."""
    with whole_file(path) as f:
        json.dump(comparison_dict(found), f, indent=2, allow_nan=False)
        f.write('\n')


def _figures(found):
    curve = found.gates[0].curve
    return dict(
        images_with_it=found.holding, saver={found.metric.name: curve.saver, 'gflops': curve.saver_gflops},
        base={found.metric.name: curve.base, 'gflops': curve.base_gflops},
        gates={g.name: dict(retention=g.curve.retention(), retention_interval=g.retention_interval,
                            saved_at_drop=g.curve.saved_at_drop(), saved_interval=g.saved_intervals,
                            learned_is_above_it=g.behind and g.behind[0],
                            learned_is_above_it_interval=g.behind and g.behind[1:]) for g in found.gates})


def _to(interval):
    return '{:.3f} to {:.3f}'.format(*interval)


def print_fit(pair, gate, notes=()) -> None:
    """Print what became of a fit.

    Args:
        pair (Pair): What the gate was fitted on.
        gate (LearnedGain): It.
        notes: Sentences that belong beside it.
    """
    out, found = console(), gate.gate['fitted']
    lean = gate.gate['lean']
    taken = ' and '.join(found['learners']) if lean < 1 else 'no learner'
    for text in (
            f'{pair.title}: gate for {gate.gate["metric"]["name"]}, fitted on {found["images"]} images and '
            f'{len(gate.classes)} classes',
            *([f'options of {", ".join(f"{g:.4g}" for g in gate.gflops)} GFLOPs, routed by a price'] if gate.options > 1
              else []),
            f'mean retention {found["retention"]:.3f} on held-out images ({found["folds"]}-fold cross-validation, by '
            f'which it was chosen, so a little too good), {found["closed_form"]:.3f} by the closed form that it can '
            'lean to',
            f'taken: {taken}, leaning {lean:.0%} to the closed form'
            + (f'; {len(gate.gate["neck"]["mean"])} features of the neck' if gate.needs_features else ''),
            *(f'note: {n}' for n in notes)):
        out.print(text, markup=False, highlight=False, soft_wrap=True)
