"""Groups of COCO's classes that users ask for: a cascade that looks for few classes saves more."""

from ..errors import ConfigError

#: By name; ``tools/sweep.py --group coco``.
COCO_GROUPS = {
    'person': ('person',),
    'vehicles': ('bicycle', 'car', 'motorcycle', 'bus', 'truck'),
    'buses and trains': ('bus', 'train'),
    'boats, planes, trains': ('boat', 'airplane', 'train'),
    'animals': ('bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe'),
    'cats and dogs': ('cat', 'dog'),
    'phones': ('cell phone',),
    'furniture': ('chair', 'couch', 'bed', 'dining table'),
    'sports': ('frisbee', 'skis', 'snowboard', 'sports ball', 'kite', 'baseball bat', 'baseball glove', 'skateboard',
               'surfboard', 'tennis racket'),
}


def parse_groups(given) -> dict:
    """Groups from a command line: ``NAME=class,class`` each, or ``coco`` for :data:`COCO_GROUPS`.

    Raises:
        ConfigError: Neither.
    """
    groups = {}
    for text in given or ():
        name, _, classes = text.partition('=')
        if text == 'coco':
            groups.update(COCO_GROUPS)
        elif name and classes:
            groups[name] = tuple(c.strip() for c in classes.split(','))
        else:
            raise ConfigError(f'a group must be NAME=class,class or coco, but got {text!r}')
    return groups
