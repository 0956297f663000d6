"""Count the multiply-adds of whatever runs inside a context."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

# Operators of torch itself that multiply and add, and that torch's counter has no formula for.
_UNCOUNTED_ATEN = frozenset({
    'grid_sampler_2d', '_native_multi_head_attention', '_transformer_encoder_layer_fwd',
    'upsample_bilinear2d', 'upsample_bicubic2d', 'cdist', '_cdist_forward', '_fft_r2c', '_fft_c2c', '_fft_c2r',
    '_trilinear', 'dot', 'vdot', 'mv', 'addmv', 'addr', 'linalg_inv_ex', 'linalg_solve_ex', '_embedding_bag'})
# Not part of a stage's cost by definition.
_EXCLUDED = frozenset({'torchvision::nms'})


def _deform_conv2d(input_shape, weight_shape, *args, out_shape=None, **kwargs):
    batch, channels_out, height, width = out_shape
    return 2 * batch * channels_out * height * width * weight_shape[1] * weight_shape[2] * weight_shape[3]


def _sdpa_cpu(query_shape, key_shape, value_shape, *args, out_shape=None, **kwargs):
    return sdpa_flop_count(query_shape, key_shape, value_shape)


class CostCounter:
    """Counts the GFLOPs of what runs inside ``with CostCounter() as counter:``.

    Attributes:
        gflops (float): Multiply-adds in units of 1e9, after the context.
        uncounted (set[str]): Operators that multiply and add but have no formula; never empty in silence.
    """

    def __init__(self):
        custom = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _sdpa_cpu}
        if hasattr(torch.ops.torchvision, 'deform_conv2d'):
            custom[torch.ops.torchvision.deform_conv2d] = _deform_conv2d
        self._flops = FlopCounterMode(display=False, custom_mapping=custom)
        self._seen = _Seen()
        self._compiled = _CompiledOps()
        self.gflops = 0.0
        self.uncounted = set()

    def __enter__(self):
        self._seen.__enter__()
        self._compiled.__enter__()
        self._flops.__enter__()
        return self

    def __exit__(self, *exc):
        self._flops.__exit__(*exc)
        self._compiled.__exit__(*exc)
        self._seen.__exit__(*exc)
        self.gflops = self._flops.get_total_flops() / 2e9 + self._compiled.macs / 1e9
        for packet in self._seen.packets:
            name = str(packet).replace('.', '::')
            if packet in self._flops.flop_registry or name in _EXCLUDED:
                continue
            namespace, op = name.split('::')[:2]
            if namespace not in ('aten', 'prim', 'prims', 'profiler') or op in _UNCOUNTED_ATEN:
                self.uncounted.add(name)
        self.uncounted |= self._compiled.uncounted


class _Seen(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self):
        super().__init__()
        self.packets = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.packets.add(func._overloadpacket if hasattr(func, '_overloadpacket') else func)
        return func(*args, **(kwargs or {}))


class _CompiledOps:
    """Sees the operators of mmcv's compiled module, which torch's dispatcher doesn't: by their modules."""

    def __init__(self):
        self.macs = 0
        self.uncounted = set()
        self._hook = None

    def __enter__(self):
        from ..compat.mmcv_ops import status

        if status() == 'compiled':
            self._hook = torch.nn.modules.module.register_module_forward_hook(self._note)

    def __exit__(self, *exc):
        if self._hook is not None:
            self._hook.remove()

    def _note(self, module, inputs, output):
        if not type(module).__module__.startswith('mmcv.ops.'):
            return
        weight = getattr(module, 'weight', None)
        if 'DeformConv2d' in type(module).__name__ and weight is not None:
            self.macs += output.numel() * weight[0].numel()
        else:
            self.uncounted.add(f'mmcv::{type(module).__name__}')


class _Memory(TorchDispatchMode):
    """Follows the bytes of the tensors that are alive."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage not in self._known:
                    self._known.add(storage)
                    size = storage.nbytes()
                    self.now += size
                    weakref.finalize(storage, self._free, size)
        self.peak = max(self.peak, self.now)
        return out

    def _free(self, size):
        self.now -= size


def peak_memory(run, device='cpu') -> int:
    """The peak of the memory that ``run()`` allocates for tensors, in bytes, beyond what was there before.

    On a GPU it is what torch's allocator reports; on the CPU the tensors that are alive are added up (the work
    space inside an operator isn't seen).
    """
    device = torch.device(device)
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Memory() as memory:
        run()
    return memory.peak
