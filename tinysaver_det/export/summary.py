"""What ``tools/export.py`` prints at the end."""

from .export import Exported


def print_summary(found: Exported) -> None:
    """Print what was written, how much it differs, and how it is run."""
    print(f'wrote {found.folder}: ' + ', '.join(f'{n} ({size / 1e6:.1f} MB)' for n, size in found.sizes.items()))
    print(f'checked on {found.images}; largest differences from torch:')
    for key, raw in found.raw.items():
        text = f'  {key}: raw boxes {raw.pixels:.1e} pixels, scores {raw.scores:.1e}'
        if key in found.detections:
            d = found.detections[key]
            text += f'; {d.boxes} detections {d.pixels:.1e} pixels, scores {d.scores:.1e}'
            if d.others:
                text += f', {d.others} only in one of both'
        print(text)
        if key in found.detections and not found.detections[key].boxes:
            print(f'  {key} found nothing on these images, so how its boxes are chosen was not compared: give images '
                  'with objects (--images FOLDER)')
    for name in found.uncounted:
        print(f'GFLOPs of {name} are known for the counted input shapes alone: for others they follow no rule that '
                  'was found')
    print(f'run it: python tools/run_bundle.py {found.folder} IMAGE')
