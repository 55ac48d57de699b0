"""The micro-kernel: a small block of a matrix product that fills the vector registers.

Both fast engines spend their time here. In the letters of BLAS (so N is a matrix column here, not
an image), one call of `multiply` computes

    Y[i, j]  =  start[i, j] + Σ_k X[i, k] · W[k, j]     i < M rows,  k < K,  j < PANEL columns

of which neither X nor Y exists as a matrix. They are gathered through tables of offsets:

    X[i, k]        =  x[x_at + rows[i] + cols[k]]
    Y[i, 16v + j]  =  y[y_at + outs[i] + v·y_step + j]      v < PANEL / 16,  j < 16

A convolution is such a product. Row i is an output pixel, rows[i] the corner of its window in the
padded map, cols[k] the way from that corner to one tap of one channel: "im2col" whose columns are
never written. Stride, dilation, groups and memory layout are nothing but other tables.

                 cols[k] →                 W: one panel, its vectors w_step apart
            ┌───────────────────┐          ┌─────────────┐  ┌─────────────┐
    rows[i] │ · · · x · · · · · │    k ↓   │ w0  …   w15 │  │ w16  …  w31 │
       ↓    │ · · · x · · · · · │   ×      │ w0  …   w15 │  │ w16  …  w31 │
            └───────────────────┘          └─────────────┘  └─────────────┘
    a step of k: load one row of W, broadcast one x per row, MR × VECTORS fused multiply-adds

The MR × PANEL sums stay in registers from the first k to the last, then `start` is added: what Y
holds already, or the bias. A long product is called in slices of k, so that no sum of many small
terms is added to one large running value. The order of the sum of one (i, j) is the order of k and
of the slices, and depends on nothing else: the same product has the same bits in a tile of any
height, in any thread.

What must already hold: w, y, the bias and all offsets into them are multiples of 16 floats in
memory aligned to 64 bytes; no offset leaves its array; x does not overlap what is written of y.

`accumulate` is the same for one vector of columns and rows that lie side by side, 16 floats apart,
in X and in Y: their addresses need no registers of their own, so its tile is taller.

`multiply_plain` and `accumulate_plain` say the same in NumPy and take their places under
NUMBA_DISABLE_JIT=1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from npvgg.engines.jit import kernel
from npvgg.engines.processor import processor
from npvgg.ops import Array

Table: TypeAlias = NDArray[np.int64]

LANES = 16
"""Floats in one vector of the layout, whatever the machine's own: AVX2 splits each in two."""


@dataclass(frozen=True)
class Tile:
    """What fits the registers: at most `mr` gathered rows of vectors × 16 columns, or at most
    `side_by_side` rows of 16.
    """

    mr: int
    side_by_side: int
    vectors: int


def tile_of(triple: str, name: str, features: str) -> Tile:
    """Ask LLVM what it makes of 16 floats on a processor.

    zmm      32 registers of 16 floats: 10 × 2, as every row has an address: more would not fit the
             16 integer registers, and 11 × 2 runs at half the speed. 14 rows side by side: 28 would
             fit, are no faster, and take a fifth more of the time of a cold start
    ymm      16 registers of 8 floats: 6 rows of one pair
    aarch64  32 registers of 4 floats: 6 rows of four, which take 24, W takes 4 and x 1 or 2; a step
             of k is 24 multiply-adds by element and 9 loads, 7 rows would spill. Chosen by reading
             what LLVM emits for it, on no such machine
    else     registers of 4 floats, 16 or more: 2 rows of four
    """
    vector = ir.VectorType(ir.FloatType(), LANES)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(vector, [vector, vector]), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.ret(builder.fadd(*function.args))
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=name, features=features)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    if "zmm" in assembly:
        return Tile(10, 14, 2)
    if "ymm" in assembly or triple.startswith(("aarch64", "arm64")):
        return Tile(6, 6, 1)
    return Tile(2, 2, 1)


llvm.initialize_native_target()
llvm.initialize_native_asmprinter()
TILE = tile_of(llvm.get_default_triple(), *processor())
MR, SIDE_BY_SIDE = TILE.mr, TILE.side_by_side
PANEL = TILE.vectors * LANES
"""Columns of W that `multiply` takes together."""


def multiply_plain(
    tables: Table,
    row: int,
    count: int,
    out: int,
    col: int,
    depth: int,
    x: Array,
    x_at: int,
    w: Array,
    w_at: int,
    w_step: int,
    y: Array,
    y_at: int,
    y_step: int,
    weights: Array,
    bias_at: int,
    least: float,
    ahead: int,
    ahead_step: int,
) -> None:
    """Multiply `count` rows by one panel:  Y = max(start + X·W, least), as drawn above.

    tables: int64 offsets; rows, outs and cols begin at its entries row, out and col
    x, w, y, weights: float32; count × depth of x, depth × PANEL of w, count × PANEL of y
    w_step: floats from 16 columns of W to the next 16
    start: weights[bias_at : bias_at + PANEL] for every row, or Y itself where bias_at is negative
    least: 0 for a ReLU, −∞ for none. A NaN stays a NaN
    ahead, ahead_step: what the caller will need next, weights[ahead:] at ahead_step floats per tile
        and k, and as much of every 16 columns, is asked for in advance; here it has no effect
    """
    rows, outs, cols = tables[row:][:count], tables[out:][:count], tables[col:][:depth]
    vectors, lanes = np.arange(PANEL // LANES)[:, None], np.arange(LANES)
    product = np.zeros((count, PANEL), np.float32)
    for k in range(depth):  # K rank-1 updates: the order of the sums is the compiled kernel's
        factors = w[w_at + k * LANES + w_step * vectors + lanes].ravel()
        product += x[x_at + rows + cols[k]][:, None] * factors
    where = y_at + outs[:, None, None] + y_step * vectors + lanes
    start = y[where] if bias_at < 0 else weights[bias_at : bias_at + PANEL].reshape(-1, LANES)
    y[where] = np.maximum(start + product.reshape(where.shape), np.float32(least))


def accumulate_plain(
    tables: Table,
    count: int,
    col: int,
    depth: int,
    x: Array,
    x_at: int,
    w: Array,
    w_at: int,
    y: Array,
    y_at: int,
    more: int,
    weights: Array,
    ahead: int,
    ahead_step: int,
) -> None:
    """Multiply at most SIDE_BY_SIDE rows by 16 columns:  Y = X·W, or Y += X·W if `more` is not 0.

        X[i, k] = x[x_at + 16·i + cols[k]]        Y[i, j] = y[y_at + 16·i + j]

    cols begins at entry col of tables; y_at is a multiple of 16; ahead, ahead_step: as for
    `multiply_plain`
    """
    rows = LANES * np.arange(count)
    product = np.zeros((count, LANES), np.float32)
    for k in range(depth):
        factors = w[w_at + k * LANES :][:LANES]
        product += x[x_at + rows + tables[col + k]][:, None] * factors
    where = y_at + rows[:, None] + np.arange(LANES)
    y[where] = product + (y[where] if more else np.float32(0))


# --- The same in vector instructions --------------------------------------------------------------

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
Element = Callable[[int, Any], Any]
"""(row of the tile, offset of a column) → address of that element of X."""


@intrinsic
def _tile(
    typing: Any, tables: Any, row: Any, height: Any, out: Any, col: Any, depth: Any, x: Any,
    x_at: Any, w: Any, w_at: Any, w_step: Any, y: Any, y_at: Any, y_step: Any, weights: Any,
    bias_at: Any, least: Any, ahead: Any, ahead_step: Any,
) -> Any:  # fmt: skip
    """Emit `multiply_plain` for up to MR rows: one straight block of instructions per height."""
    kinds = (
        tables, row, height, out, col, depth, x, x_at, w, w_at, w_step, y, y_at, y_step, weights,
        bias_at, least, ahead, ahead_step,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (
            tables, row, height, out, col, depth, x, x_at, w, w_at, w_step, y, y_at, y_step,
            weights, bias_at, least, ahead, ahead_step,
        ) = pointers(context, builder, signature, arguments)  # fmt: skip
        from_bias = builder.icmp_signed(">=", bias_at, _INT64(0))
        floor = spread(builder, least)
        operands = (
            _at(builder, tables, col), depth, _at(builder, w, w_at), w_step,
            _at(builder, weights, ahead), ahead_step,
        )  # fmt: skip

        def block(rows: int) -> None:
            corners = [
                _at(builder, x, x_at, builder.load(_at(builder, tables, row, i)))
                for i in range(rows)
            ]
            sums = _emit_sums(
                builder, rows, TILE.vectors, lambda i, way: _at(builder, corners[i], way), *operands
            )
            for i in range(rows):
                target = _at(builder, y, y_at, builder.load(_at(builder, tables, out, i)))
                for v in range(TILE.vectors):
                    place = _at(builder, target, builder.mul(y_step, _INT64(v)))
                    bias = _at(builder, weights, bias_at, v * LANES)
                    start = load(builder, builder.select(from_bias, bias, place))
                    total = builder.fadd(start, sums[i][v])
                    store(builder, at_least(builder, total, floor), place)

        _emit_heights(builder, height, MR, block)
        return context.get_dummy_value()

    return types.void(*kinds), emit


@intrinsic
def _accumulate(
    typing: Any, tables: Any, count: Any, col: Any, depth: Any, x: Any, x_at: Any, w: Any,
    w_at: Any, y: Any, y_at: Any, more: Any, weights: Any, ahead: Any, ahead_step: Any,
) -> Any:  # fmt: skip
    """Emit `accumulate_plain`."""
    kinds = (
        tables, count, col, depth, x, x_at, w, w_at, y, y_at, more, weights, ahead, ahead_step,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (
            tables, count, col, depth, x, x_at, w, w_at, y, y_at, more, weights, ahead, ahead_step,
        ) = pointers(context, builder, signature, arguments)  # fmt: skip
        corner, target = _at(builder, x, x_at), _at(builder, y, y_at)
        again = builder.icmp_signed("!=", more, more.type(0))
        zero = ir.Constant(_VECTOR, [0.0] * LANES)
        operands = (
            _at(builder, tables, col), depth, _at(builder, w, w_at), _INT64(0),
            _at(builder, weights, ahead), ahead_step,
        )  # fmt: skip

        def block(rows: int) -> None:
            sums = _emit_sums(
                builder, rows, 1, lambda i, way: _at(builder, corner, way, i * LANES), *operands
            )
            for i in range(rows):
                place = _at(builder, target, i * LANES)
                start = builder.select(again, load(builder, place), zero)
                store(builder, builder.fadd(start, sums[i][0]), place)

        _emit_heights(builder, count, SIDE_BY_SIDE, block)
        return context.get_dummy_value()

    return types.void(*kinds), emit


def _emit_heights(builder: Any, height: Any, most: int, block: Callable[[int], None]) -> None:
    """Emit a switch over the heights of a tile, 1 … most, and a block for each."""
    after = builder.append_basic_block("multiplied")
    cases = builder.switch(height, after)
    for rows in range(1, most + 1):
        case = builder.append_basic_block(f"height{rows}")
        cases.add_case(_INT64(rows), case)
        builder.position_at_end(case)
        block(rows)
        builder.branch(after)
    builder.position_at_end(after)


def _emit_sums(
    builder: Any, height: int, vectors: int, element: Element, cols: Any, depth: Any, w: Any,
    w_step: Any, ahead: Any, ahead_step: Any,
) -> list[list[Any]]:  # fmt: skip
    """Emit the loop over k, from 0 while k < depth; give the sums, (height, vectors).

    The sums are φ values of the loop's head, where LLVM keeps them in registers.
    """
    byte = ir.IntType(8).as_pointer()
    fma = multiply_add(builder)
    hint = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
    prefetch = declared(builder, "llvm.prefetch.p0", hint)
    before = builder.basic_block
    head, body, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    k = builder.phi(_INT64)
    sums = [[builder.phi(_VECTOR) for _ in range(vectors)] for _ in range(height)]
    builder.cbranch(builder.icmp_signed("<", k, depth), body, after)

    builder.position_at_end(body)
    way = builder.load(_at(builder, cols, k))
    here = _at(builder, w, builder.mul(k, _INT64(LANES)))
    aside = [builder.mul(w_step, _INT64(v)) for v in range(vectors)]
    factors = [load(builder, _at(builder, here, there)) for there in aside]
    line = _at(builder, ahead, builder.mul(k, ahead_step))
    hints = [_INT32(0), _INT32(2), _INT32(1)]  # to read, into the second-level cache, data
    # "convergent" is how LLVM is told not to unroll the loop: it would run out of registers
    for there in aside:
        place = builder.bitcast(_at(builder, line, there), byte)
        builder.call(prefetch, [place, *hints], attrs=("convergent",))
    for i, row in enumerate(sums):
        value = spread(builder, builder.load(element(i, way)))
        for v, total in enumerate(row):
            total.add_incoming(ir.Constant(_VECTOR, [0.0] * LANES), before)
            total.add_incoming(builder.call(fma, [value, factors[v], total]), body)
    k.add_incoming(_INT64(0), before)
    k.add_incoming(builder.add(k, _INT64(1)), body)
    builder.branch(head)
    builder.position_at_end(after)
    return sums


# --- Instructions that `transforms` emits, too ----------------------------------------------------


def declared(builder: Any, name: str, kind: Any) -> Any:
    """Return a function from outside, declared in the module that is being built."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def multiply_add(builder: Any) -> Any:
    """Return (a, b, c) → a·b + c in every lane, rounded once where the processor can."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return declared(builder, f"llvm.fmuladd.v{LANES}f32", kind)


def pointers(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Return LLVM values of the arguments, and of arrays the address of their first element."""
    return [
        context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.Array)
        else value
        for kind, value in zip(signature.args, arguments, strict=True)
    ]


def _at(builder: Any, base: Any, *offsets: Any) -> Any:
    """Address of base[Σ offsets]."""
    for offset in offsets:
        base = builder.gep(base, [_INT64(offset) if isinstance(offset, int) else offset])
    return base


def load(builder: Any, address: Any) -> Any:
    """Load a vector from an address that is a multiple of 64 bytes."""
    value = builder.load(builder.bitcast(address, _VECTOR.as_pointer()))
    value.align = 4 * LANES
    return value


def store(builder: Any, value: Any, address: Any) -> None:
    """Store a vector to an address that is a multiple of 64 bytes."""
    place = builder.bitcast(address, _VECTOR.as_pointer())
    builder.store(value, place).align = 4 * LANES


def spread(builder: Any, scalar: Any) -> Any:
    """Copy a scalar into all lanes."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    lane = builder.insert_element(undefined, scalar, _INT32(0))
    zeros = ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES)
    return builder.shuffle_vector(lane, undefined, zeros)


def at_least(builder: Any, value: Any, floor: Any) -> Any:
    """Return max(value, floor) in every lane; a NaN stays a NaN."""
    below = builder.fcmp_ordered("<", value, floor)  # false for a NaN
    return builder.select(below, floor, value)


@kernel
def _multiply(
    tables, row, count, out, col, depth, x, x_at, w, w_at, w_step, y, y_at, y_step, weights,
    bias_at, least, ahead, ahead_step,
):  # fmt: skip
    """Like `multiply_plain`, MR rows at a time and what is left at the end."""
    for i in range(0, count, MR):
        _tile(
            tables, row + i, min(MR, count - i), out + i, col, depth, x, x_at, w, w_at, w_step, y,
            y_at, y_step, weights, bias_at, np.float32(least), ahead, ahead_step,
        )  # fmt: skip
        ahead += depth * ahead_step


multiply: Callable[..., None] = multiply_plain if config.DISABLE_JIT else _multiply
accumulate: Callable[..., None] = accumulate_plain if config.DISABLE_JIT else _accumulate
