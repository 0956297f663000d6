"""The same elementwise operations on one tensor and on a list of tensors, so that an algorithm is written once.

All but the changes of type are single operations of torch, whose result is rounded once. None takes ``alpha``, whose
product may or may not be rounded before the sum.
"""

import torch


class OneTensor:
    """Operands are tensors."""

    add = staticmethod(torch.add)
    sub = staticmethod(torch.sub)
    add_ = staticmethod(torch.Tensor.add_)
    sub_ = staticmethod(torch.Tensor.sub_)
    mul_ = staticmethod(torch.Tensor.mul_)
    div_ = staticmethod(torch.Tensor.div_)
    sqrt_ = staticmethod(torch.Tensor.sqrt_)
    lerp_ = staticmethod(torch.Tensor.lerp_)
    addcmul_ = staticmethod(torch.Tensor.addcmul_)
    addcdiv_ = staticmethod(torch.Tensor.addcdiv_)
    copy_ = staticmethod(torch.Tensor.copy_)

    @staticmethod
    def to(tensor, dtype):
        """A copy in another type, rounded to nearest, ties to even."""
        return tensor.to(dtype, copy=True)

    @staticmethod
    def each(operand):
        """The operand's tensors."""
        return [operand]


class TensorList:
    """Operands are lists of tensors of one device, of the same shapes in the same places."""

    add = staticmethod(torch._foreach_add)
    sub = staticmethod(torch._foreach_sub)
    add_ = staticmethod(torch._foreach_add_)
    sub_ = staticmethod(torch._foreach_sub_)
    mul_ = staticmethod(torch._foreach_mul_)
    div_ = staticmethod(torch._foreach_div_)
    sqrt_ = staticmethod(torch._foreach_sqrt_)
    lerp_ = staticmethod(torch._foreach_lerp_)
    addcmul_ = staticmethod(torch._foreach_addcmul_)
    addcdiv_ = staticmethod(torch._foreach_addcdiv_)
    copy_ = staticmethod(torch._foreach_copy_)

    @staticmethod
    def to(tensors, dtype):
        """Copies in another type, rounded to nearest, ties to even."""
        copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(copies, tensors)
        return copies

    @staticmethod
    def each(operand):
        """The operand's tensors."""
        return operand
