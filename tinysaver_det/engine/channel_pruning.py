"""Prune the channels of a detector: which belong together is found by tracing it."""

import copy
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.logging import MessageHub
from torch import nn
from torch.utils._pytree import tree_leaves

from ..cost import CostCounter
from ..errors import ConfigError, DataError, TrainingError
from ..models.pruned_detector import channels_of
from ..names import close_to

STEPS = 24  # of a bisection
ROUNDS = 8  # bisections
NEAR = 0.98  # share of the target that is near enough
CLOSE, ROUNDING = 1e-3, 1e-5  # differences allowed, in shares of how outputs vary and of how large they are


def check_prunable(model: nn.Module, ignore: Sequence[str] = ()) -> None:
    """Refuse what can be seen not to be prunable without tracing it.

    Args:
        model: The detector.
        ignore: Paths of modules whose layers keep their outputs.

    Raises:
        ConfigError: A detector of another kind, or a path that is not there.
    """
    if not isinstance(model, SingleStageDetector) or type(model).extract_feat is not SingleStageDetector.extract_feat:
        raise ConfigError(f'a {type(model).__name__} is not pruned: those of mmdet\'s one-stage detectors with a '
                          'dense head are')
    known = dict(model.named_modules())
    for path in ignore:
        if path not in known or not path:
            raise ConfigError(f'--ignore {path} is no module of the {type(model).__name__}'
                              f'{close_to(path, list(known))}')


class ChannelPruner:
    """A detector of one stage, at any share of its channels.

    Which channels belong together is found by torch-pruning's graph of dependencies (Fang et al., *DepGraph*, CVPR
    2023, arXiv 2301.12900). How much they matter is what the loss would change by without them, to first order: the
    mean over the convolutions, linear layers and group norms of the group of ``|weight * gradient|``, summed over a
    channel's weights (after Molchanov et al., *Importance Estimation for Neural Network Pruning*, CVPR 2019, arXiv
    1906.10771, who square the sum of ``weight * gradient``). It has the same unit in every group, so that all channels
    of the detector are ranked together. Without gradients it is the group magnitude, the mean of their squared weights
    relative to the group's mean, which is no match for it, since layers differ in scale. Those below a threshold go,
    but at least ``round_to`` of each group stay, and a multiple of it where channels go. The layers that predict keep
    their outputs. (torch-pruning's own pruner leaves a group whole where all of it would go, so that GFLOPs don't fall
    with the ratio.)

    Args:
        model: The detector; it stays as it is.
        inputs: (1, 3, H, W), an input of it, preprocessed.
        samples: Its data sample in a list, for the detector's ``predict``.
        ignore: Paths of modules whose layers keep their outputs.
        round_to: Multiple that the channels of a layer are rounded up to.
        gradients: By the name of a parameter the gradient of the loss, see :func:`loss_gradients`.

    Attributes:
        gflops (float): Of the detector as it is.

    Raises:
        ConfigError: The detector cannot be traced, a path that is not there, or torch-pruning is not installed.
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor, samples: Sequence, ignore: Sequence[str] = (),
                 round_to: int = 4, gradients: Optional[Mapping] = None):
        try:
            import torch_pruning
        except ImportError as e:
            raise ConfigError('pruning needs the package torch-pruning: pip install "torch-pruning>=1.6,<2"') from e
        self._tp = torch_pruning
        check_prunable(model, ignore)
        self._model, self._inputs, self._samples, self._round_to = model, inputs, samples, round_to
        self._ignore, self._gradients = tuple(ignore), gradients
        self._cache = {}
        self.gflops = self._count(model)
        whole = copy.deepcopy(model)
        graph, groups = self._trace(whole)
        self._ranked = [g.importance for g in groups]
        self._layers = _Layers(whole, groups, inputs)
        self._groups = groups
        if not self._ranked:
            raise ConfigError(f'no layer of the {type(model).__name__} can be pruned with --ignore '
                              f'{" ".join(ignore) or "left out"}')
        self._sorted = np.sort(np.concatenate(self._ranked))

    @property
    def least(self) -> tuple:
        """What :meth:`build` takes for the smallest detector."""
        return self._kept(1.0)

    def share(self, kept) -> float:
        """The share of the ranked channels that stay."""
        return sum(n * g.repeats for n, g in zip(kept, self._groups)) / \
            sum(len(g.importance) * g.repeats for g in self._groups)

    def build(self, kept: tuple):
        """The detector without its least important channels.

        Args:
            kept: As :meth:`largest_below` gives it.

        Returns:
            tuple: The pruned detector, and its GFLOPs.

        Raises:
            ConfigError: It doesn't work or doesn't answer as it should.
        """
        model, alive = self._prune(kept)
        gflops = self._count(model)
        self._check(model, alive)
        if abs(gflops - self._gflops(kept)) > CLOSE * gflops:
            raise ConfigError(f'the pruned {type(model).__name__} costs {gflops:.4g} GFLOPs where '
                              f'{self._gflops(kept):.4g} were expected, so its layers were not traced rightly: leave '
                              'parts of it as they are, with --ignore PATH')
        return model, gflops

    def largest_below(self, gflops: float) -> tuple:
        """What is kept of the detector so that it costs no more, and as little less as can be.

        The threshold is bisected. Where a step of it costs much, as that of the first layer does, the groups of this
        step stay as they are below it, and the threshold of the others is bisected again.

        Args:
            gflops: The target.

        Returns:
            tuple: How many channels of each group stay.

        Raises:
            ConfigError: It is above the detector's own, or below what can be reached.
        """
        if gflops >= self.gflops:
            raise ConfigError(f'--gflops {gflops:g} is no less than the {self.gflops:.4g} GFLOPs of the saver as it '
                              'is: give a lower target')
        least = self._gflops(self.least)
        if gflops < least:
            ignored = f', and --ignore {" ".join(self._ignore)}' if self._ignore else ''
            raise ConfigError(f'--gflops {gflops:g} cannot be reached: the least is {least:.4g} GFLOPs, with '
                              f'{self._round_to} channels in each layer that is pruned (--round-to{ignored})')
        fixed, best = {}, self.least
        for _ in range(ROUNDS):
            low, high = self._bisect(gflops, fixed)
            best = max(best, high, key=self._gflops)
            if low is None or self._gflops(best) >= NEAR * gflops:
                break
            fixed.update({k: b for k, (a, b) in enumerate(zip(low, high)) if a != b})
        return best

    def _bisect(self, gflops, fixed):
        """Of two neighbouring thresholds what is kept, too costly and cheap enough; the first None at ratio 0."""
        def kept(ratio):
            return tuple(fixed.get(k, n) for k, n in enumerate(self._kept(ratio)))

        low, high = 0.0, 1.0
        if self._gflops(kept(low)) <= gflops:
            return None, kept(low)
        for _ in range(STEPS):
            middle = (low + high) / 2
            if kept(middle) == kept(high) or kept(middle) != kept(low) and self._gflops(kept(middle)) <= gflops:
                high = middle
            else:
                low = middle
        return kept(low), kept(high)

    def _gflops(self, kept):
        if kept not in self._cache:
            self._cache[kept] = self.gflops - self._layers.saved(kept)
        return self._cache[kept]

    def _kept(self, ratio):
        """How many channels of each group stay, of each of its equal parts."""
        count = round(ratio * len(self._sorted))
        threshold = self._sorted[count - 1] if count else -np.inf
        found = []
        for importance, group in zip(self._ranked, self._groups):
            step = -(-self._round_to // group.repeats)
            above = int((importance > threshold).sum())
            found.append(min(len(importance), max(step, -(-above // step) * step)))
        return tuple(found)

    def _trace(self, model):
        """The graph of a detector, and its groups."""
        tp, names = self._tp, {m: n for n, m in model.named_modules()}
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter('ignore')
            frozen = [p for p in model.parameters() if not p.requires_grad]
            outputs = _Outputs(model)
            for p in model.parameters():
                p.requires_grad_(True)
            try:
                graph = tp.DependencyGraph().build_dependency(outputs, self._inputs)
            except Exception as e:
                raise ConfigError(f'the {type(model).__name__} cannot be traced for pruning: {type(e).__name__}: '
                                  f'{" ".join(str(e).split())[:200]}') from e
            for p in frozen:
                p.requires_grad_(False)
        self._refuse_unseen(model, graph)
        ignored = [m for path in self._ignore for m in model.get_submodule(path).modules()]
        ignored += [m for m in graph.module2node if isinstance(m, _ROOTS) and _predicts(graph.module2node[m])]
        if self._gradients is None:
            matters = tp.importance.GroupMagnitudeImportance(p=2)
        else:
            matters = tp.importance.GroupTaylorImportance(normalizer=None)
            for name, p in model.named_parameters():
                p.grad = self._gradients[name].clone()
        found = []
        for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=list(_ROOTS)):
            importance = matters(group)
            if importance is None:
                continue
            modules = [dep.target.module for dep, _ in group if dep.target.module in names]
            groups = max(map(_repeats, modules))
            if len(importance) % groups:
                continue
            importance = torch.nan_to_num(importance.view(groups, -1).mean(0)).double().numpy()
            members = [(names[item.dep.target.module], graph.is_out_channel_pruning_fn(item.dep.handler),
                        np.array(item.root_idxs)) for item in group.items
                       if isinstance(item.dep.target.module, _ROOTS)]
            found.append(_Group(group[0].dep.target.module, group[0].dep.handler, importance, groups, members,
                                self._round_to))
        return graph, found

    def _refuse_unseen(self, model, graph):
        seen = {id(p) for m in graph.module2node if isinstance(m, nn.Module) for p in m.parameters(recurse=False)}
        unseen = [n for n, p in model.named_parameters() if id(p) not in seen and p.numel() > 1
                  and not any(n.startswith(f'{path}.') for path in self._ignore)]
        if unseen:
            layers = list(dict.fromkeys(n.rpartition('.')[0] for n in unseen))
            kinds = sorted({type(model.get_submodule(n)).__name__ for n in layers})
            raise ConfigError(f'{len(layers)} layers of the {type(model).__name__} ({", ".join(kinds)}) cannot be '
                              f'traced for pruning, such as {", ".join(layers[:3])}: leave the parts that they are in '
                              'as they are, with --ignore PATH')

    def _prune(self, kept):
        """A pruned copy, and by layer and side which of its channels stayed."""
        model = copy.deepcopy(self._model)
        names = {m: n for n, m in model.named_modules()}
        graph, groups = self._trace(model)
        alive = {}
        for ranked, keep in zip(groups, kept):
            gone = ranked.gone(keep)
            if not gone:
                continue
            group = graph.get_pruning_group(ranked.root, ranked.handler, gone)
            for dep, where in group:
                module = dep.target.module
                if isinstance(module, nn.Parameter):
                    raise ConfigError(f'{graph._param_to_name[module][len("model."):]} of the {type(model).__name__} '
                                      'goes with channels that would be pruned, but is no layer whose shape can be '
                                      'changed: leave the part that it is in as it is, with --ignore PATH')
                if module in names and graph.is_out_channel_pruning_fn(dep.handler):
                    name = names[module]
                    if name not in alive:
                        alive[name] = np.arange(graph.get_out_channels(module))
                    alive[name] = np.delete(alive[name], where)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                group.prune()
        model.zero_grad()
        return model, alive

    @torch.no_grad()
    def _count(self, model):
        model.eval()
        with CostCounter() as counter:
            try:
                model(self._inputs, copy.deepcopy(self._samples), mode='predict')
            except Exception as e:
                why = f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'
                if model is self._model:
                    raise ConfigError(f'the {type(model).__name__} fails as it is: {why}') from e
                raise ConfigError(f'the pruned {type(model).__name__} does not work ({why}), so its layers were not '
                                  'traced rightly: leave parts of it as they are, with --ignore PATH') from e
        return counter.gflops

    @torch.no_grad()
    def _check(self, model, alive):
        """Refuse a pruned detector that answers otherwise than the whole one with the same channels set to 0.

        Where channels are normalised in groups, those that are left are normalised otherwise, so that there is
        nothing to compare with.
        """
        silenced = copy.deepcopy(self._model)
        layers = dict(silenced.named_modules())
        for name, left in alive.items():
            layer = layers[name]
            if isinstance(layer, nn.GroupNorm) or layer.weight is None:
                return
            gone = np.setdiff1d(np.arange(len(layer.weight) if not getattr(layer, 'transposed', False)
                                          else layer.out_channels), left)
            if getattr(layer, 'transposed', False):
                layer.weight[:, gone] = 0
            else:
                layer.weight[gone] = 0
            if layer.bias is not None:
                layer.bias[gone] = 0
        expected, given = (_Outputs(m.eval())(self._inputs) for m in (silenced, model))
        for a, b in zip(expected, given):
            spread = float((a.amax((-2, -1)) - a.amin((-2, -1))).max())  # not the size, which may be a bias's
            if a.shape != b.shape or not float((a - b).abs().max()) <= CLOSE * spread + ROUNDING * float(a.abs().max()):
                raise ConfigError(f'the pruned {type(model).__name__} does not answer as the whole one without these '
                                  'channels does, so its layers were not traced rightly: leave parts of it as they '
                                  'are, with --ignore PATH')


class _Outputs(nn.Module):
    """What a detector's head gives."""

    def __init__(self, model):
        super().__init__()
        self.model = model.eval()

    def train(self, mode=True):
        return self  # a backbone that freezes its first stages would do it again, and these could not be traced

    def forward(self, images):
        found = tree_leaves(self.model.bbox_head(self.model.extract_feat(images)))
        return [t for t in found if isinstance(t, torch.Tensor) and (t.requires_grad or not torch.is_grad_enabled())]


@dataclass(frozen=True, eq=False)
class _Group:
    """Channels that go together.

    Attributes:
        root, handler: A layer, and how torch-pruning prunes it.
        importance: (N,) of its channels.
        repeats: How often these are repeated, where channels are grouped.
        members: (path, whether its outputs, (M,) the channels of the group that its channels belong to) of layers.
        least: How many channels of each layer stay.
    """

    root: nn.Module
    handler: object
    importance: np.ndarray
    repeats: int
    members: list
    least: int

    def gone(self, keep: int) -> list:
        """The channels that go where so many of the N stay.

        Where layers give some of the channels each, which are joined, none loses all of them.
        """
        size = len(self.importance)
        if keep == size:
            return []
        stay = set(np.argsort(self.importance, kind='stable')[size - keep:].tolist())
        for _, outputs, part in self.members:
            if outputs and self.repeats == 1 and len(part) < size:
                stay.update(part[np.argsort(self.importance[part], kind='stable')][-self.least:].tolist())
        return [i + k * size for k in range(self.repeats) for i in range(size) if i not in stay]


class _Layers:
    """What is saved by pruning, by the shapes of the layers alone."""

    def __init__(self, model, groups, inputs):
        names = {m: n for n, m in model.named_modules()}
        self._groups, self._removed = groups, {}
        self._shapes = {n: shape for n, shape in channels_of(model).items() if len(shape) > 1}
        self._places = dict.fromkeys(self._shapes, 0.0)  # multiply-adds for each pair of an input and an output
        hooks = [m.register_forward_hook(lambda m, given, found: self._note(names[m], m, given[0], found))
                 for m in model.modules() if isinstance(m, _ROOTS)]
        with torch.no_grad():
            _Outputs(model)(inputs)
        for hook in hooks:
            hook.remove()

    def _note(self, name, layer, given, found):
        if isinstance(layer, nn.Linear):
            self._places[name] += found.numel() / layer.out_features
        else:
            pixels = given.numel() / layer.in_channels if layer.transposed else found.numel() / layer.out_channels
            self._places[name] += pixels * math.prod(layer.kernel_size)

    def saved(self, kept) -> float:
        """GFLOPs saved where so many channels of each group stay."""
        removed = dict.fromkeys(((n, outputs) for n in self._shapes for outputs in (False, True)), 0)
        for k, keep in enumerate(kept):
            for key, count in self._of(k, keep):
                removed[key] += count
        total = 0.0
        for name, (before, after, *groups) in self._shapes.items():
            parts = groups[0] if groups else 1
            less_in, less_out = removed[name, False], removed[name, True]
            if 1 < parts == after:  # by depth: one of each
                left = after - max(less_in, less_out)
            else:
                left = (before - less_in) * (after - less_out) / parts
            total += self._places[name] * (before * after / parts - left)
        return total / 1e9

    def _of(self, k, keep):
        if (k, keep) not in self._removed:
            gone = self._groups[k].gone(keep)
            self._removed[k, keep] = [((name, outputs), int(np.isin(part, gone).sum()))
                                      for name, outputs, part in self._groups[k].members] if gone else []
        return self._removed[k, keep]


_ROOTS = (nn.modules.conv._ConvNd, nn.Linear)


def _predicts(node):
    """Whether what a layer gives reaches the end without another layer."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if not node.outputs:
            return True
        for following in node.outputs:
            if following not in seen and not isinstance(following.module, _ROOTS):
                seen.add(following)
                waiting.append(following)
    return False


def _repeats(module):
    """In how many equal groups the channels of a layer must stay."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, _ROOTS[0]) and 1 < module.groups < module.out_channels else 1


def loss_gradients(model: nn.Module, batches: Iterable) -> dict:
    """How steep a detector's loss is in each of its parameters: the root of the mean square over batches.

    Gradients of a trained detector cancel over many batches, so their squares are taken. Batch norms normalise as in
    tests.

    Args:
        model: The detector, with what its loss needs (``train_cfg``); it stays as it is.
        batches: Of training data, as its data loader gives them.

    Returns:
        dict[str, torch.Tensor]: By the name of a parameter; frozen ones among them, and 0 for those that the loss does
        not depend on.

    Raises:
        TrainingError: The loss of a batch cannot be computed or is not finite.
        DataError: There is no batch.
    """
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    for p in model.parameters():
        p.requires_grad_(True)
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):  # a runner's, which what resizes batches and some heads ask for
        if hub.get_info(name) is None:
            hub.update_info(name, 0)
    squares, count = {n: torch.zeros_like(p) for n, p in model.named_parameters()}, 0
    for batch in batches:
        model.zero_grad()
        try:
            loss, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        except Exception as e:
            raise TrainingError(f'the loss of the saver cannot be computed on batch {count + 1} of its training data '
                                f'({type(e).__name__}: {" ".join(str(e).split())[:200]}), so it cannot tell which '
                                'channels matter: check the weights and the labels') from e
        if not torch.isfinite(loss):
            raise TrainingError(f'the loss of the saver is {float(loss.detach())} on batch {count + 1} of its training '
                                'data, so it cannot tell which channels matter: check the weights and the labels')
        loss.backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                squares[name] += p.grad.square()
        count += 1
    if not count:
        raise DataError('the training data of the saver has no image to tell by which channels matter')
    return {name: (total / count).sqrt() for name, total in squares.items()}


def changed_channels(model: nn.Module, whole: nn.Module) -> dict:
    """The shapes of the layers of a pruned detector that the whole one has otherwise."""
    before = channels_of(whole)
    return {name: shape for name, shape in channels_of(model).items() if before[name] != shape}
