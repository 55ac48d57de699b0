"""Winograd's transforms as straight lines of vector instructions, written from the exact matrices.

One call of `transform_input` puts a small tile of vectors between a matrix L of `cook_toom` and its
transpose, Y = L X Lᵀ:

y[y_at + i·y_row + j·y_col]  =  Σ_{a,b} L[i, a] · L[j, b] · x[x_at + a·x_row + b·x_col]

where every element is a vector of 16 lanes, 16 channels at once. L is Bᵀ of a filter. `finish` does
it with Aᵀ for the output, then adds a bias and applies the ReLU. `transform_kernel` makes one row i
of L X Lᵀ for many kernels, with L = P of the filter.

The denominators of G are not in P: G = diag(s) P, and what the products of place (i, j) have in
common, s_i · s_j, multiplies V instead, once per tile in place of once per kernel:

V = Bᵀ d B ⊙ s sᵀ,        U = P g Pᵀ,        V ⊙ U = (Bᵀ d B) ⊙ (G g Gᵀ)

A matrix has many zeros and ones, and rows in pairs: those of the points a and −a differ in the
signs of the odd powers alone. Their common sums E (equal signs) and O (opposite signs) are made
once,

row(a) = E + O,        row(−a) = E − O,

and nothing is multiplied by 0 or 1. The functions in `_plain` say the same in NumPy,
from the same matrices, and take their places under NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from npvgg.engines.cook_toom import CookToom, Matrix, as_array, cook_toom
from npvgg.engines.microkernel import LANES, at_least, load, multiply_add, pointers, spread, store
from npvgg.ops import Array

FILTERS: dict[tuple[int, int], CookToom] = {
    (m, stride): cook_toom(m, stride) for m, stride in ((3, 1), (4, 1), (5, 1), (2, 2), (4, 2))
}
"""(outputs per tile, stride) → matrices: the filters that are compiled, those that `winograd.tile`
chooses for some size of map. Each takes a tenth of the time of a cold start."""

INDEX = {key: index for index, key in enumerate(FILTERS)}
"""What the functions below call a filter by."""

INPUTS: list[Matrix] = [f.bt for f in FILTERS.values()]
SCALES = [f.scales for f in FILTERS.values()]
KERNELS: list[Matrix] = [f.powers for f in FILTERS.values()]
OUTPUTS: list[Matrix] = [f.at for f in FILTERS.values()]

TAPS = 9
"""Values of a kernel."""


def transform_input_plain(
    filter: int, x: Array, x_at: int, x_row: int, x_col: int,
    y: Array, y_at: int, y_row: int, y_col: int,
) -> None:  # fmt: skip
    """Compute Y = L X Lᵀ ⊙ s sᵀ with L = Bᵀ of a filter, as above.

    x, y: float32, flat; offsets and steps in floats, multiples of 16, in memory aligned to 64 bytes
    """
    tile, where = _between(INPUTS[filter], x, x_at, x_row, x_col, y_at, y_row, y_col)
    scales = np.array(SCALES[filter])
    y[where] = tile * np.outer(scales, scales).astype(np.float32)[:, :, None]


def transform_kernel_plain(
    filter: int, row: int, count: int, x: Array, x_at: int, y: Array, y_at: int, y_col: int
) -> None:
    """Compute row i = `row` of U = P g Pᵀ for `count` kernels side by side, P of a filter.

    y[y_at + j·y_col + 16·c]  =  Σ_{a,b} P[i, a] · P[j, b] · x[x_at + 16·(9·c + 3·a + b)]

    x, y: float32, flat, vectors of 16 lanes as above
    """
    p = as_array(KERNELS[filter]).astype(np.float32)
    kernels = x[x_at : x_at + count * TAPS * LANES].reshape(count, 3, 3, LANES)
    half = np.tensordot(p[row], kernels, (0, 1))  # (count, b, lanes)
    for j, weights in enumerate(p):
        y[y_at + j * y_col :][: count * LANES] = np.tensordot(weights, half, (0, 1)).ravel()


def finish_plain(
    filter: int, x: Array, x_at: int, x_row: int, x_col: int,
    y: Array, y_at: int, y_row: int, y_col: int, bias: Array, bias_at: int, least: float,
) -> None:  # fmt: skip
    """Compute Y = max(L X Lᵀ + bias, least) with L = Aᵀ of a filter; a NaN stays a NaN.

    bias: 16 lanes from bias[bias_at] on; the rest as for `transform_input_plain`
    """
    tile, where = _between(OUTPUTS[filter], x, x_at, x_row, x_col, y_at, y_row, y_col)
    y[where] = np.maximum(tile + bias[bias_at : bias_at + LANES], np.float32(least))


def _between(
    matrix: Matrix, x: Array, x_at: int, x_row: int, x_col: int, y_at: int, y_row: int, y_col: int
) -> tuple[Array, Any]:
    """Return L X Lᵀ, (rows, rows, lanes), and where in y it belongs."""
    left = as_array(matrix).astype(np.float32)
    rows, columns = (np.arange(size)[:, None, None] for size in left.shape)
    lanes = np.arange(LANES)
    tile = x[x_at + columns * x_row + columns.transpose(1, 0, 2) * x_col + lanes]
    half = np.tensordot(left, tile, (1, 0))  # (i, b, lanes)
    whole = np.tensordot(half, left, (1, 1)).transpose(0, 2, 1)
    return whole, y_at + rows * y_row + rows.transpose(1, 0, 2) * y_col + lanes


# --- The same in vector instructions --------------------------------------------------------------

_INT64 = ir.IntType(64)
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
Tail = Callable[[int, int, int, Any], Any]
"""(filter, row, column, value) → what is stored in its place."""


@intrinsic
def _transform_input(
    typing: Any, filter: Any, x: Any, x_at: Any, x_row: Any, x_col: Any,
    y: Any, y_at: Any, y_row: Any, y_col: Any,
) -> Any:  # fmt: skip
    """Emit `transform_input_plain`: one straight block of instructions per filter."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def scaled(filter: int, i: int, j: int, value: Any) -> Any:
            scale = SCALES[filter][i] * SCALES[filter][j]
            return value if scale == 1 else builder.fmul(_constant(scale), value)

        _emit_cases(builder, INPUTS, pointers(context, builder, signature, arguments), scaled)
        return context.get_dummy_value()

    return types.void(filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col), emit


@intrinsic
def _transform_kernel(
    typing: Any, filter: Any, row: Any, count: Any, x: Any, x_at: Any, y: Any, y_at: Any, y_col: Any
) -> Any:
    """Emit `transform_kernel_plain`: one loop over the kernels per filter."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = pointers(context, builder, signature, arguments)
        which, row, count, x, x_at, y, y_at, y_col = values
        place = builder.gep(_powers(builder), [_INT64(0), which, row, _INT64(0)])
        weights = [spread(builder, builder.load(builder.gep(place, [_INT64(a)]))) for a in range(3)]
        ends = builder.gep(x, [x_at]), builder.gep(y, [y_at])
        for _, matrix in _cases(builder, which, KERNELS):
            _emit_row(builder, matrix, weights, count, *ends, y_col)
        return context.get_dummy_value()

    return types.void(filter, row, count, x, x_at, y, y_at, y_col), emit


def _powers(builder: Any) -> Any:
    """Return P of all filters as a constant of the module, [filter][row][power]."""
    name = "npvgg_powers"
    if name not in builder.module.globals:
        row = ir.ArrayType(ir.FloatType(), 3)
        matrix = ir.ArrayType(row, max(map(len, KERNELS)))
        kind = ir.ArrayType(matrix, len(KERNELS))
        table = np.zeros((len(KERNELS), matrix.count, 3))
        for values, p in zip(table, KERNELS, strict=True):
            values[: len(p)] = as_array(p)
        constant = ir.GlobalVariable(builder.module, kind, name)
        constant.linkage, constant.global_constant = "internal", True
        constant.initializer = ir.Constant(kind, table.tolist())
    return builder.module.globals[name]


def _emit_row(
    builder: Any, matrix: Matrix, weights: Sequence[Any], count: Any, x: Any, y: Any, y_col: Any
) -> None:
    """Emit the row with these weights of L X Lᵀ for `count` kernels X, each of nine vectors."""
    before = builder.basic_block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "made"))
    builder.branch(head)
    builder.position_at_end(head)
    c = builder.phi(_INT64)
    builder.cbranch(builder.icmp_signed("<", c, count), body, after)

    builder.position_at_end(body)
    zero, fma = _INT64(0), multiply_add(builder)
    read = _grid(builder, x, builder.mul(c, _INT64(TAPS * LANES)), _INT64(3 * LANES), _INT64(LANES))
    write = _grid(builder, y, builder.mul(c, _INT64(LANES)), zero, y_col)
    half = {}
    for b in range(3):
        half[b] = builder.fmul(weights[0], load(builder, read(0, b)))
        for a in (1, 2):
            half[b] = builder.call(fma, [weights[a], load(builder, read(a, b)), half[b]])
    for j, value in _products(builder, matrix, half).items():
        store(builder, value, write(0, j))
    c.add_incoming(zero, before)
    c.add_incoming(builder.add(c, _INT64(1)), body)
    builder.branch(head)
    builder.position_at_end(after)


@intrinsic
def _finish(
    typing: Any, filter: Any, x: Any, x_at: Any, x_row: Any, x_col: Any,
    y: Any, y_at: Any, y_row: Any, y_col: Any, bias: Any, bias_at: Any, least: Any,
) -> Any:  # fmt: skip
    """Emit `finish_plain`."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *values, bias, bias_at, least = pointers(context, builder, signature, arguments)
        start, floor = load(builder, builder.gep(bias, [bias_at])), spread(builder, least)
        _emit_cases(
            builder, OUTPUTS, values,
            lambda _filter, _i, _j, value: at_least(builder, builder.fadd(value, start), floor),
        )  # fmt: skip
        return context.get_dummy_value()

    kinds = (filter, x, x_at, x_row, x_col, y, y_at, y_row, y_col, bias, bias_at, least)
    return types.void(*kinds), emit


def _emit_cases(
    builder: Any, matrices: Sequence[Matrix], values: Sequence[Any], tail: Tail
) -> None:
    """Emit a switch over the matrices, and behind it what each of them does."""
    which, x, x_at, x_row, x_col, y, y_at, y_row, y_col = values
    for index, matrix in _cases(builder, which, matrices):
        read = _grid(builder, x, x_at, x_row, x_col)
        write = _grid(builder, y, y_at, y_row, y_col)
        _emit_between(builder, matrix, read, write, partial(tail, index))


def _cases(builder: Any, which: Any, matrices: Sequence[Matrix]) -> Iterator[tuple[int, Matrix]]:
    """Emit a switch over the matrices; what is emitted while one of them is given is its case."""
    after = builder.append_basic_block("transformed")
    cases = builder.switch(which, after)
    for index, matrix in enumerate(matrices):
        block = builder.append_basic_block(f"matrix{index}")
        cases.add_case(_INT64(index), block)
        builder.position_at_end(block)
        yield index, matrix
        builder.branch(after)
    builder.position_at_end(after)


def _grid(builder: Any, base: Any, at: Any, row: Any, col: Any) -> Callable[[int, int], Any]:
    """Return the function (i, j) → address of the vector at base[at + i·row + j·col]."""

    def address(i: int, j: int) -> Any:
        way = builder.add(builder.mul(row, _INT64(i)), builder.mul(col, _INT64(j)))
        return builder.gep(base, [builder.add(at, way)])

    return address


def _emit_between(
    builder: Any,
    matrix: Matrix,
    read: Callable[[int, int], Any],
    write: Callable[[int, int], Any],
    tail: Callable[[int, int, Any], Any],
) -> None:
    """Emit L X Lᵀ: every column of X by the rows of L, then every row of that likewise."""
    columns = range(len(matrix[0]))
    half = [
        _products(builder, matrix, {a: load(builder, read(a, b)) for a in columns}) for b in columns
    ]
    for i in range(len(matrix)):
        row = _products(builder, matrix, {b: half[b][i] for b in columns})
        for j in range(len(matrix)):
            store(builder, tail(i, j, row[j]), write(i, j))


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
    fma = multiply_add(builder)
    total = None
    for k, factor in terms.items():
        if not factor:
            continue
        if total is None:
            total = column[k] if factor == 1 else builder.fmul(_constant(factor), column[k])
        elif abs(factor) == 1:
            total = (builder.fadd if factor > 0 else builder.fsub)(total, column[k])
        else:
            total = builder.call(fma, [_constant(factor), column[k], total])
    return total


def _constant(value: Fraction) -> Any:
    """Return a vector of one number."""
    return ir.Constant(_VECTOR, [float(value)] * LANES)


transform_input: Callable[..., None] = (
    transform_input_plain if config.DISABLE_JIT else _transform_input
)
transform_kernel: Callable[..., None] = (
    transform_kernel_plain if config.DISABLE_JIT else _transform_kernel
)
finish: Callable[..., None] = finish_plain if config.DISABLE_JIT else _finish
