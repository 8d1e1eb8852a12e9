"""Vectors of 32 bytes for compiled code: 8 rows of float32 or 4 of float64 in one register.

LLVM does not find these vectors by itself in a loop over pairs of amplitudes, because it cannot know that the
two do not overlap. So the kernels name them: `load`, `store`, `splat`, and the three operations below.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

N_BYTES = 32


class VectorType(types.Type):
    """The type of a vector of one of the two precisions.

    Args:
        dtype: numba's float32 or float64.
    """

    def __init__(self, dtype: types.Float):
        self.dtype = dtype
        super().__init__(name=f"Vector({dtype})")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    """How LLVM holds it: as a vector of its own, so in one register."""

    def __init__(self, dmm: Any, fe_type: VectorType):
        super().__init__(dmm, fe_type, _llvm_type(fe_type.dtype))


def _llvm_type(dtype: types.Float) -> ir.VectorType:
    element = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
    return ir.VectorType(element, 8 * N_BYTES // dtype.bitwidth)


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """Return the number of rows in a vector of an array's precision."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, _llvm_type(array.dtype).count)

    return types.intp(array), generate


@intrinsic
def zeros(typing: Any, array: Any) -> Any:
    """Return a vector of zeros of an array's precision."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_llvm_type(array.dtype), None)

    return VectorType(array.dtype)(array), generate


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return the vector that starts at an index of a contiguous array of one dimension."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        return builder.load(place, align=array.dtype.bitwidth // 8)

    return VectorType(array.dtype)(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to where an index of a contiguous array of one dimension points."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _place(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], place, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def splat(typing: Any, number: Any) -> Any:
    """Return a vector of one number."""
    result = VectorType(number)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        empty = ir.Constant(_llvm_type(number), ir.Undefined)
        first = builder.insert_element(empty, args[0], _index(0))
        return builder.shuffle_vector(first, empty, _indices([0] * empty.type.count))

    return result(number), generate


@intrinsic
def multiply_add(typing: Any, one: Any, two: Any, three: Any) -> Any:
    """Return one * two + three, in one instruction where the processor has it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(builder, *args)

    return one(one, one, one), generate


@intrinsic
def multiply_subtract(typing: Any, one: Any, two: Any, three: Any) -> Any:
    """Return one * two - three."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _multiply_add(builder, args[0], args[1], builder.fneg(args[2]))

    return one(one, one, one), generate


@intrinsic
def multiply(typing: Any, one: Any, two: Any) -> Any:
    """Return one * two."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fmul(*args)

    return one(one, one), generate


@intrinsic
def add(typing: Any, one: Any, two: Any) -> Any:
    """Return one + two."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(*args)

    return one(one, one), generate


@intrinsic
def negate(typing: Any, one: Any) -> Any:
    """Return -one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fneg(*args)

    return one(one), generate


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """Return the sum over the rows, always in the same order: halves, then their halves."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (left,) = args
        while left.type.count > 1:
            half = left.type.count // 2
            lower = builder.shuffle_vector(left, left, _indices(range(half)))
            upper = builder.shuffle_vector(left, left, _indices(range(half, 2 * half)))
            left = builder.fadd(lower, upper)
        return builder.extract_element(left, _index(0))

    return vector.dtype(vector), generate


def _multiply_add(builder: Any, one: Any, two: Any, three: Any) -> Any:
    kind = one.type
    bits = 8 * N_BYTES // kind.count
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind, kind, kind]),
        f"llvm.fmuladd.v{kind.count}f{bits}",
    )
    return builder.call(function, [one, two, three])


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    first = builder.gep(data, [index])
    return builder.bitcast(first, _llvm_type(kind.dtype).as_pointer())


def _index(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(32), number)


def _indices(numbers: Any) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), list(numbers))
