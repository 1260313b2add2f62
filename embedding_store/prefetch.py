"""Memory asked for ahead of its use: the processor's prefetch, for the kernels."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def _prefetch(typing_context: Any, array: Any, row: Any) -> Any:
    if not (isinstance(array, types.Array) and array.layout == "C"):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(array)(context, builder, args[0])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        offset = builder.mul(args[1], builder.extract_value(view.strides, 0))
        first = builder.gep(builder.bitcast(view.data, pointer), [offset])
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        call = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(call, [first, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


prefetch: Any = _prefetch
"""Called as ``prefetch(array, row)``: has the beginning of a row of a C-contiguous array brought into the cache, and
waits for nothing."""
