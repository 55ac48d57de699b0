"""Winograd's transforms as straight lines of vector instructions, written from the exact matrices.

One call of `transform` multiplies one small matrix (Bᵀ or Aᵀ of `cook_toom`) by a column of
vectors,

    y[y_at + i·y_step + j]  =  Σ_k M[i, k] · x[x_at + k·x_step + j]        j < 16 lanes,

where a lane is a channel. In two dimensions it is called for every column, then for every row.

A matrix has many zeros and ones, and rows in pairs: those of the points a and −a differ in the
signs of the odd powers alone. Their common sums E (equal signs) and O (opposite signs) are made
once,

    row(a) = E + O,        row(−a) = ± (E − O),

and nothing is multiplied by 0 or ±1. `transform_plain` says the same in NumPy, from the same
matrices, and takes its place under NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from npvgg.engines.cook_toom import CookToom, Matrix, as_array, cook_toom
from npvgg.engines.microkernel import LANES
from npvgg.ops import Array

FILTERS: dict[tuple[int, int], CookToom] = {
    (m, stride): cook_toom(m, stride)
    for stride, sizes in ((1, (2, 3, 4, 5, 6)), (2, (2, 3, 4)))
    for m in sizes
}
"""(outputs per tile, stride) → matrices: the filters that are compiled."""

MATRICES: list[Matrix] = [matrix for f in FILTERS.values() for matrix in (f.bt, f.at)]
"""What `transform` can multiply by, by index."""

INPUT_OF = {key: 2 * i for i, key in enumerate(FILTERS)}
OUTPUT_OF = {key: 2 * i + 1 for i, key in enumerate(FILTERS)}


def transform_plain(
    matrix: int, x: Array, x_at: int, x_step: int, y: Array, y_at: int, y_step: int
) -> None:
    """Multiply MATRICES[matrix] by a column of vectors, as above.

    x, y: float32, flat; offsets and steps in floats, multiples of 16, in memory aligned to 64 bytes
    """
    m = as_array(MATRICES[matrix]).astype(np.float32)
    lanes = np.arange(LANES)
    column = x[x_at + x_step * np.arange(m.shape[1])[:, None] + lanes]
    y[y_at + y_step * np.arange(m.shape[0])[:, None] + lanes] = m @ column


# --- The same in vector instructions --------------------------------------------------------------

_VECTOR = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def _transform(
    typing: Any, matrix: Any, x: Any, x_at: Any, x_step: Any, y: Any, y_at: Any, y_step: Any
) -> Any:
    """Emit `transform_plain`: one straight block of instructions per matrix."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        which, x, x_at, x_step, y, y_at, y_step = (
            context.make_array(kind)(context, builder, value).data
            if isinstance(kind, types.Array)
            else value
            for kind, value in zip(signature.args, arguments, strict=True)
        )

        def place(base: Any, at: Any, step: Any, k: int) -> Any:
            offset = builder.add(at, builder.mul(step, ir.IntType(64)(k)))
            return builder.bitcast(builder.gep(base, [offset]), _VECTOR.as_pointer())

        def load(k: int) -> Any:
            value = builder.load(place(x, x_at, x_step, k))
            value.align = 4 * LANES
            return value

        after = builder.append_basic_block("transformed")
        cases = builder.switch(which, after)
        for index, rows in enumerate(MATRICES):
            block = builder.append_basic_block(f"matrix{index}")
            cases.add_case(ir.IntType(64)(index), block)
            builder.position_at_end(block)
            used = {k for row in rows for k, value in enumerate(row) if value}
            column = {k: load(k) for k in sorted(used)}
            for i, value in _products(builder, rows, column).items():
                builder.store(value, place(y, y_at, y_step, i)).align = 4 * LANES
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(matrix, x, x_at, x_step, y, y_at, y_step), emit


def _products(builder: Any, rows: Matrix, column: dict[int, Any]) -> dict[int, Any]:
    """Emit every row's combination of the column, those of a pair from their common sums."""
    results: dict[int, Any] = {}
    for i, row in enumerate(rows):
        if i in results:
            continue
        partner = _partner(rows, i, set(results))
        if partner is None:
            results[i] = _combination(builder, dict(enumerate(row)), column)
            continue
        other = rows[partner]
        even = {k: v for k, v in enumerate(row) if v == other[k]}
        odd = {k: v for k, v in enumerate(row) if v != other[k]}
        e, o = (_combination(builder, part, column) for part in (even, odd))
        results[i], results[partner] = builder.fadd(e, o), builder.fsub(e, o)
    return results


def _partner(rows: Matrix, i: int, taken: set[int]) -> int | None:
    """Find the row that is equal but for some signs, with two terms or more to share."""
    for j in range(i + 1, len(rows)):
        equal = [a == b for a, b in zip(rows[i], rows[j], strict=True) if a or b]
        alike = all(abs(a) == abs(b) for a, b in zip(rows[i], rows[j], strict=True))
        if j not in taken and alike and len(equal) > 1 and any(equal) and not all(equal):
            return j
    return None


def _combination(builder: Any, terms: dict[int, Fraction], column: dict[int, Any]) -> Any:
    """Emit Σ terms[k] · column[k], from the first to the last."""
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f32"
    )
    total = None
    for k, factor in terms.items():
        if not factor:
            continue
        constant = ir.Constant(_VECTOR, [float(factor)] * LANES)
        if total is None:
            total = column[k] if factor == 1 else builder.fmul(constant, column[k])
        elif abs(factor) == 1:
            total = (builder.fadd if factor > 0 else builder.fsub)(total, column[k])
        else:
            total = builder.call(fma, [constant, column[k], total])
    return total


transform: Callable[..., None] = transform_plain if config.DISABLE_JIT else _transform
