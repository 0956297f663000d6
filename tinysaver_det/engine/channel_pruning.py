"""Prune the channels of a detector: which belong together is found by tracing it."""

import copy
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from mmdet.models.detectors import SingleStageDetector
from torch import nn
from torch.utils._pytree import tree_leaves

from ..cost import CostCounter
from ..errors import ConfigError
from ..models.pruned_detector import channels_of
from ..names import close_to

STEPS = 24  # of a bisection
ROUNDS = 8  # bisections
NEAR = 0.98  # share of the target that is near enough
CLOSE = 1e-3  # differences to the largest output that rounding may make


class ChannelPruner:
    """A detector of one stage, at any share of its channels.

    Which channels belong together is found by torch-pruning's graph of dependencies (Fang et al., *DepGraph*, CVPR
    2023, arXiv 2301.12900); how much they matter is its group magnitude, the mean of their squared weights over all
    layers of the group, relative to the group's mean. All channels of the detector are ranked together, and those below
    a threshold go; but at least ``round_to`` of each group stay, and a multiple of it where channels go. The layers
    that predict keep their outputs. (torch-pruning's own pruner leaves a group whole where all of it would go, so that
    GFLOPs don't fall with the ratio.)

    Args:
        model: The detector; it stays as it is.
        inputs: (1, 3, H, W), an input of it, preprocessed.
        samples: Its data sample in a list, for the detector's ``predict``.
        ignore: Paths of modules whose layers keep their outputs.
        round_to: Multiple that the channels of a layer are rounded up to.

    Attributes:
        gflops (float): Of the detector as it is.

    Raises:
        ConfigError: The detector cannot be traced, a path that is not there, or torch-pruning is not installed.
    """

    def __init__(self, model: nn.Module, inputs: torch.Tensor, samples: Sequence, ignore: Sequence[str] = (),
                 round_to: int = 4):
        try:
            import torch_pruning
        except ImportError as e:
            raise ConfigError('pruning needs the package torch-pruning: pip install "torch-pruning>=1.6,<2"') from e
        self._tp = torch_pruning
        if not isinstance(model, SingleStageDetector) or type(model).extract_feat is not \
                SingleStageDetector.extract_feat:
            raise ConfigError(f'a {type(model).__name__} is not pruned: those of mmdet\'s one-stage detectors with a '
                              'dense head are')
        self._model, self._inputs, self._samples, self._round_to = model, inputs, samples, round_to
        known = dict(model.named_modules())
        for path in ignore:
            if path not in known or not path:
                raise ConfigError(f'--ignore {path} is no module of the {type(model).__name__}'
                                  f'{close_to(path, list(known))}')
        self._ignore = tuple(ignore)
        self._cache = {}
        self.gflops = self._count(model)
        self._ranked = [g[2:4] for g in self._trace(copy.deepcopy(model))[1]]
        if not self._ranked:
            raise ConfigError(f'no layer of the {type(model).__name__} can be pruned with --ignore '
                              f'{" ".join(ignore) or "left out"}')
        self._sorted = np.sort(np.concatenate([i for i, _ in self._ranked]))

    @property
    def least(self) -> tuple:
        """What :meth:`build` takes for the smallest detector."""
        return self._kept(1.0)

    def share(self, kept) -> float:
        """The share of the ranked channels that stay."""
        return sum(n * groups for n, (_, groups) in zip(kept, self._ranked)) / \
            sum(len(i) * groups for i, groups in self._ranked)

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
        self._cache[kept] = self._count(model)
        self._check(model, alive)
        return model, self._cache[kept]

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
            self._cache[kept] = self._count(self._prune(kept)[0])
        return self._cache[kept]

    def _kept(self, ratio):
        """How many channels of each group stay, of each of its equal parts."""
        count = round(ratio * len(self._sorted))
        threshold = self._sorted[count - 1] if count else -np.inf
        found = []
        for importance, groups in self._ranked:
            step = -(-self._round_to // groups)
            above = int((importance > threshold).sum())
            found.append(min(len(importance), max(step, -(-above // step) * step)))
        return tuple(found)

    def _trace(self, model):
        """The graph of a detector, and of each group its root, how to prune it, the importance of its channels, how
        often they are repeated (where channels are grouped), and which come from one layer, where others give the rest.
        """
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
        magnitude, found = tp.importance.GroupMagnitudeImportance(p=2), []
        for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=list(_ROOTS)):
            importance = magnitude(group)
            if importance is None:
                continue
            modules = [dep.target.module for dep, _ in group if dep.target.module in names]
            groups = max(map(_repeats, modules))
            if len(importance) % groups:
                continue
            importance = torch.nan_to_num(importance.view(groups, -1).mean(0)).double().numpy()
            parts = [np.array(item.root_idxs) for item in group.items if isinstance(item.dep.target.module, _ROOTS)
                     and graph.is_out_channel_pruning_fn(item.dep.handler) and len(item.idxs) < len(importance)]
            found.append((group[0].dep.target.module, group[0].dep.handler, importance, groups, parts))
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
        for (root, handler, importance, repeats, parts), keep in zip(groups, kept):
            order = np.argsort(importance, kind='stable')
            stay = set(order[len(importance) - keep:].tolist())
            if repeats == 1:  # layers that give some of the channels each: none may lose all
                for part in parts:
                    stay.update(part[np.argsort(importance[part], kind='stable')][-self._round_to:].tolist())
            gone = [int(i + k * len(importance)) for k in range(repeats) for i in range(len(importance))
                    if i not in stay]
            if not gone:
                continue
            group = graph.get_pruning_group(root, handler, gone)
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
            if a.shape != b.shape or not torch.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(a.abs().max())):
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


def changed_channels(model: nn.Module, whole: nn.Module) -> dict:
    """The shapes of the layers of a pruned detector that the whole one has otherwise."""
    before = channels_of(whole)
    return {name: shape for name, shape in channels_of(model).items() if before[name] != shape}
