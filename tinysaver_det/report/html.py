"""One self-contained page on which an operating point is chosen, and the pictures in it."""

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import ImageError
from ..files import whole_file
from .summary import plain

TEMPLATE = Path(__file__).with_name('page.html')
PLACEHOLDER = '@PAYLOAD@'
# The colours of boxes by class, in turn: told apart by the colour-blind, and black letters are read on each of them.
COLORS = ('#56b4e9', '#e69f00', '#2fbf94', '#f0e442', '#cc79a7', '#e8743b')


def write_page(path, payload: dict) -> None:
    """Write the page about a cascade; the file is whole or absent.

    It needs no network and no other file. Figures that don't exist (None, NaN, infinite, or -1 for a metric, as COCO
    says where no object counts) are shown as a dash.

    Args:
        path: The HTML file.
        payload: What it shows; fractions and metrics in [0, 1], P points from all-saver to all-base:

            - ``title``, ``metric`` (name of the one that is drawn), ``images``, ``classes_note``, ``made``;
            - ``saver``, ``base``: ``name``, ``gflops``, ``value`` (of the metric) of each stage alone; ``base`` also
              ``metrics``, COCO's twelve by name, where a curve has them;
            - ``curves``: one dict per confidence, the chosen one first: ``name``; ``threshold``, ``handover``,
              ``gflops``, ``value``, (P,) each; ``metrics`` (optional), COCO's twelve by name, (P,) each; ``retention``
              by handover and 'mean'; ``saved_at_drop`` by drop in units of the metric;
            - ``random``: None or ``handover``, ``gflops``, ``value``, ``low``, ``high``, (Q,) each; ``oracle``: None
              or the first three of these; ``statics``: ``name``, ``gflops``, ``value`` of single models;
            - ``class_table``: None or ``names``, ``objects``, ``saver``, ``base`` (C,), ``points`` (N,) indices into
              the first curve, ``values`` (N, C): AP of each class;
            - ``operating_point``: None or where the slider starts: ``threshold``, ``text``, and maybe the ``handover``
              at that threshold, which finds its point without doubt. Without it the slider starts at the cheapest
              point that loses at most half a point;
            - ``gallery``: None or ``least`` and ``most`` confident images: ``src`` (of :func:`thumbnail`), ``name``,
              ``confidence``, ``stage``;
            - ``groups``: None or classes taken together: ``name``, ``images`` (their share), ``saver``, ``base``,
              ``saved`` by drop, ``statics`` with ``name``, ``loses`` and ``saves``;
            - ``notes``: sentences.
    """
    text = json.dumps(plain(payload), allow_nan=False, separators=(',', ':'))  # ASCII, lone surrogates included
    for mark in '<>&':  # nothing in a name may end the script element
        text = text.replace(mark, f'\\u{ord(mark):04x}')
    page = TEMPLATE.read_text(encoding='utf-8').replace(PLACEHOLDER, text)
    with whole_file(path) as f:
        f.write(page)


def thumbnail(path, bboxes=(), labels: Sequence[str] = (), scores: Sequence[float] = (), side: int = 320) -> str:
    """A small picture of an image with boxes, to be stored in a page.

    Args:
        path: The image file. It is turned as its EXIF data say, as mmdet's loader does.
        bboxes: (N, 4) xyxy in pixels of the original image.
        labels: (N,) names of the boxes' classes.
        scores: (N,) in [0, 1]; the surest box is drawn last, above the others.
        side: Longest side of the picture in pixels; a smaller image stays as it is.

    Returns:
        str: ``data:image/jpeg;base64,...``

    Raises:
        ImageError: The file is missing, damaged or no image.
    """
    from PIL import ImageDraw, ImageFont

    image, scale = _shrunk(os.fspath(path), side)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    names = list(dict.fromkeys(labels))
    for box, label, score in sorted(zip(bboxes, labels, scores), key=lambda b: b[2]):
        color = COLORS[names.index(label) % len(COLORS)]
        left, top, right, bottom = (float(x) * scale for x in box)
        left, right = sorted(min(max(x, 0), image.width - 1) for x in (left, right))
        top, bottom = sorted(min(max(y, 0), image.height - 1) for y in (top, bottom))
        draw.rectangle((left, top, right, bottom), outline=color, width=2)
        text = f'{label} {score:.2f}'.encode('latin-1', 'replace').decode('latin-1')  # what the font has
        wide, high = draw.textbbox((0, 0), text, font=font)[2:]
        x, y = max(0, min(left, image.width - wide - 4)), top - high - 2
        y = y if y >= 0 else top
        draw.rectangle((x, y, x + wide + 4, y + high + 2), fill=color)
        draw.text((x + 2, y), text, fill='black', font=font)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()


def _shrunk(path, side):
    """An RGB image of at most ``side`` pixels, and its size as a share of the original's."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            longest = max(opened.size)
            opened.draft('RGB', (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its size
            image = ImageOps.exif_transpose(opened).convert('RGB')
        image.thumbnail((side, side))
    except FileNotFoundError as e:
        raise ImageError(f'image {path} is not there') from e
    except Exception as e:  # of damaged files Pillow raises all kinds
        reason = 'Pillow knows no such format' if type(e).__name__ == 'UnidentifiedImageError' else e
        raise ImageError(f'image {path} cannot be read: {reason}') from e
    return image, max(image.size) / longest
