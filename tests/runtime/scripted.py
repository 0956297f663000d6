"""A cascade whose graphs say what a test tells them to, and a bundle on disk whose graphs are tiny."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from tinysaver_det.runtime.bundle import Bundle, OptionFile, Postprocess, Preprocess, StageFile
from tinysaver_det.runtime.cascade import Cascade

CLASSES = ('cat', 'dog', 'bus')
BEST_CLASS = Postprocess('best_class', 0.01, 0.5)


def preprocess(size):
    return Preprocess('mmdet', [dict(op='resize', scale=[size, size], keep_ratio=False, interpolation='nearest')],
                      False)


def stage(name, labels=(0, 1, 2), **more):
    return StageFile(**{**dict(name=name, graph=f'{name}.onnx', sha256='0' * 64, weights=f'weights of {name}',
                               precision='float32', labels=list(labels), parameters=7, postprocess=BEST_CLASS), **more})


def bundle(**more):
    """The saver at 4 x 4 pixels, 1 GFLOPs, and the base at 8 x 8, 5 GFLOPs; handed over below a best score of 0.5."""
    return Bundle(**{**dict(
        classes=CLASSES, confidence=dict(type='MaxScore'), routing=dict(type='Threshold', threshold=0.5),
        merge=dict(type='replace'), alignment=None, operating_point=None,
        stages=dict(saver=stage('tiny'), base=stage('large')),
        options=[OptionFile('saver', 'tiny', preprocess(4), None, 4, dict([('4x4', 1.0)])),
                 OptionFile('base', 'large', preprocess(8), None, 8, dict([('8x8', 5.0)]))], versions={}), **more})


def two_scales(**more):
    """The same with the base at 8 x 8 and at 16 x 16 pixels, 5 and 20 GFLOPs."""
    options = [OptionFile('saver', 'tiny', preprocess(4), None, 4, dict([('4x4', 1.0)])),
               OptionFile('base', 'large 8x8', preprocess(8), [8, 8], 8, dict([('8x8', 5.0)])),
               OptionFile('base', 'large 16x16', preprocess(16), [16, 16], 16, dict([('16x16', 20.0)]))]
    return bundle(**{**dict(options=options,
                            routing=dict(type='SmallestScale', threshold=0.5, pixels=4, sizes=[8, 16])), **more})


def image(value, height=10, width=20):
    """An image of one colour, by which a graph knows what to say."""
    return np.full((height, width, 3), value, np.uint8)


class Script:
    """A graph that answers an image of one colour with ``answers[colour]``: a list of (x1, y1, x2, y2, score, label),
    the corners as shares of the image; remembers the shapes of its batches."""

    def __init__(self, answers):
        self.answers, self.batches = answers, []

    def __call__(self, images):
        self.batches.append(images.shape)
        found = [np.array(self.answers.get(int(one[0, 0, 0]), []), np.float64).reshape(-1, 6) for one in images]
        rows = max(1, *(len(f) for f in found))
        boxes, scores = np.zeros((len(images), rows, 4), np.float32), np.zeros((len(images), rows), np.float32)
        labels = np.zeros((len(images), rows), np.int64)
        for k, f in enumerate(found):
            boxes[k, :len(f)] = f[:, :4] * images.shape[2]
            scores[k, :len(f)], labels[k, :len(f)] = f[:, 4], f[:, 5]
        return dict(boxes=boxes, scores=scores, labels=labels)


#: The saver is sure of 1, not of 2, and sees nothing in 3; the base sees two boxes in each.
SAVER = {1: [(0, 0, 0.5, 0.5, 0.9, 0)], 2: [(0, 0, 0.5, 0.5, 0.3, 1)], 3: []}
BASE = {k: [(0, 0, 0.5, 0.5, 0.8, 1), (0.5, 0.5, 1, 1, 0.6, 2)] for k in (1, 2, 3)}


def cascade(made=None, saver=SAVER, base=BASE, **more):
    """(cascade, its saver's script, its base's)."""
    scripts = [s if callable(s) else Script(s) for s in (saver, base)]
    made = made or bundle()
    return Cascade(made, dict(zip(made.stages, scripts)), **more), *scripts


def write_bundle(folder, **more):
    """A bundle whose saver is as sure as the image is bright and whose base is always sure; both find one box.

    Returns:
        Path: The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = bundle(**more)
    stages = {}
    for key, one in made.stages.items():
        data = graph(one.name, 1 / 255 if key == 'saver' else 0.0, 0.0 if key == 'saver' else 0.9)
        (folder / one.graph).write_bytes(data)
        stages[key] = dataclasses.replace(one, sha256=hashlib.sha256(data).hexdigest())
    content = dataclasses.replace(made, stages=stages).to_dict()
    (folder / 'cascade.json').write_text(json.dumps(content))
    return folder


def graph(name, slope, intercept):
    """Content of an ONNX file: one box of label 0, whose score depends linearly on the mean of the image."""
    from onnx import TensorProto, helper

    def node(kind, inputs, output, **attributes):
        return helper.make_node(kind, inputs, [output], **attributes)

    def constant(label, values, dtype=TensorProto.FLOAT):
        values = np.asarray(values)
        return helper.make_tensor(label, dtype, values.shape, values.reshape(-1).tolist())

    nodes = [node('ReduceMean', ['images'], 'mean', axes=[2, 3], keepdims=0),
             node('ReduceMean', ['mean'], 'grey', axes=[1], keepdims=1),
             node('Mul', ['grey', 'slope'], 'scaled'), node('Add', ['scaled', 'intercept'], 'scores'),
             node('Mul', ['grey', 'zero'], 'zeros'), node('Cast', ['zeros'], 'labels', to=TensorProto.INT64),
             node('Unsqueeze', ['zeros', 'axis'], 'zeros3'), node('Add', ['zeros3', 'box'], 'boxes')]
    values = [constant('slope', [slope]), constant('intercept', [intercept]), constant('zero', [0.0]),
              constant('axis', [2], TensorProto.INT64), constant('box', [[[1.0, 1.0, 3.0, 3.0]]])]
    outputs = [helper.make_tensor_value_info(n, t, s) for n, t, s in (
        ('boxes', TensorProto.FLOAT, ['n', 1, 4]), ('scores', TensorProto.FLOAT, ['n', 1]),
        ('labels', TensorProto.INT64, ['n', 1]))]
    made = helper.make_graph(nodes, name, [helper.make_tensor_value_info('images', TensorProto.FLOAT,
                                                                         ['n', 3, 'h', 'w'])], outputs, values)
    return helper.make_model(made, opset_imports=[helper.make_opsetid('', 17)], ir_version=8).SerializeToString()
