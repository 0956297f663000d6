"""What a base's labels are like, printed."""

from rich.table import Table

from .console import console


def distill_table(found) -> Table:
    """A rich table of the scores that labels may have, with the chosen one marked.

    Args:
        found (Distilled): What :func:`tinysaver_det.engine.distill.distill` wrote.
    """
    table = Table(title=f"the base's boxes on {found.images} images, and F1 on {found.held} held ones"
                  if found.agreement else f"the base's boxes on {found.images} images", title_justify='left')
    heads = ['score', 'labels', 'per image']
    if found.agreement:
        heads.append('F1 with saver' if found.saver_scores else 'F1 with annotations')
    if found.saver_scores:
        heads.append("saver's score")
    for head in ('', *heads):
        table.add_column(head, justify='right', no_wrap=True)
    for n, score in enumerate(found.scores):
        row = [f'{score:.2f}', str(found.labels_at[n]), f'{found.labels_at[n] / found.images:.2f}']
        row += [f'{found.agreement[n]:.4f}'] if found.agreement else []
        row += [f'{found.saver_scores[n]:.2f}'] if found.saver_scores else []
        table.add_row('>' if abs(score - found.score) < 1e-9 else '', *row)
    return table


def print_distilled(found) -> None:
    """Print the table, what the score was chosen by, and what to run."""
    out = console()
    out.print(distill_table(found))
    names = ', '.join(found.classes[:10]) + (', ...' if len(found.classes) > 10 else '')
    why = dict(hand='given by --score', annotations='where F1 with the annotations is highest',
               saver='where F1 with the saver is highest')[found.by]
    beside = f' {sum(found.annotated)} annotated images are trained on, too.' if found.annotated else ''
    texts = [f'Labels are boxes with a score of {found.score:g} or more ({why}): {found.labels} on {found.images} '
             f'images, {found.empty} of which have none; {found.soft_labels} soft labels.{beside}',
             f'{len(found.classes)} classes: {names}. The training starts from {found.start}.',
             f"written to {found.config}: train the saver with mmdet's own tools/train.py {found.config}"]
    for text in texts:
        out.print(text, markup=False, highlight=False, soft_wrap=True)
