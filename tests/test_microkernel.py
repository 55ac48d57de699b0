"""The micro-kernel and its plain twin give one answer, over all edges of the tile."""

import re
import shutil
import subprocess

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from npvgg.engines import microkernel
from npvgg.engines.jit import kernel
from npvgg.engines.microkernel import (
    LANES,
    MR,
    PANEL,
    SIDE_BY_SIDE,
    accumulate,
    accumulate_plain,
    multiply,
    multiply_plain,
)

VECTORS = PANEL // LANES
W_STEP = 40 * LANES  # more than any depth here


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def aligned(size):
    """Zeros in memory aligned to 64 bytes."""
    raw = np.zeros(size + 16, np.float32)
    skip = -(raw.ctypes.data // 4) % 16
    return raw[skip : skip + size]


def problem(rng, count, depth):
    """Operands in small integers, so that float32 sums are exact in any order.

    Rows and columns are gathered from anywhere; Y has a margin that must stay as it is.
    """
    tables = np.concatenate(
        [
            rng.integers(0, 500, count),  # rows
            rng.permutation(2 * count)[:count] * LANES,  # outs, every other place unused
            rng.integers(0, 300, depth),  # cols
        ]
    )
    x = rng.integers(-8, 9, 900).astype(np.float32)
    w, weights = aligned(PANEL + VECTORS * W_STEP), aligned(PANEL + LANES)
    w[:] = rng.integers(-8, 9, w.size)
    weights[:] = rng.integers(-8, 9, weights.size)
    y_step = 2 * count * LANES + LANES
    y = aligned(VECTORS * y_step + LANES)
    y[:] = rng.integers(-8, 9, y.size)
    return tables, x, w, weights, y, y_step


def by_loops(tables, count, depth, x, w, weights, y, y_step, bias_at, least):
    """The docstring of the module, one element at a time, in Python's own integers."""
    rows, outs, cols = tables[:count], tables[count : 2 * count], tables[2 * count :]
    want = y.copy()
    for i in range(count):
        for v in range(VECTORS):
            for j in range(LANES):
                at = LANES + outs[i] + v * y_step + j
                j_panel = v * LANES + j
                total = int(y[at]) if bias_at < 0 else int(weights[bias_at + j_panel])
                for k in range(depth):
                    factor = w[PANEL + v * W_STEP + k * LANES + j]
                    total += int(x[5 + rows[i] + cols[k]]) * int(factor)
                want[at] = max(total, least)
    return want


@pytest.mark.parametrize("form", [multiply, multiply_plain], ids=["vectors", "plain"])
@pytest.mark.parametrize("least", [0.0, -np.inf], ids=["relu", "linear"])
@pytest.mark.parametrize("bias_at", [-1, 16], ids=["accumulate", "from-bias"])
@pytest.mark.parametrize("depth", [1, 2, 19])
def test_every_height_of_the_tile_is_exact_on_integers(rng, form, least, bias_at, depth):
    for count in range(1, 2 * MR + 2):
        tables, x, w, weights, y, y_step = problem(rng, count, depth)
        want = by_loops(tables, count, depth, x, w, weights, y, y_step, bias_at, least)
        form(
            tables, 0, count, count, 2 * count, depth, x, 5, w, PANEL, W_STEP, y, LANES, y_step,
            weights, bias_at, least, 0, 0,
        )  # fmt: skip
        np.testing.assert_array_equal(y, want)


def test_an_empty_product_is_the_bias(rng):
    tables, x, w, weights, y, y_step = problem(rng, 3, 1)
    want = by_loops(tables, 3, 0, x, w, weights, y, y_step, 16, -np.inf)
    multiply(
        tables, 0, 3, 3, 6, 0, x, 5, w, PANEL, W_STEP, y, LANES, y_step, weights, 16, -np.inf, 0, 0
    )  # fmt: skip
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("form", [multiply, multiply_plain], ids=["vectors", "plain"])
def test_a_nan_passes_through_the_relu(rng, form):
    tables, x, w, weights, y, y_step = problem(rng, MR, 4)
    x[:] = np.nan
    form(
        tables, 0, MR, MR, 2 * MR, 4, x, 5, w, PANEL, W_STEP, y, LANES, y_step, weights, 16, 0.0,
        0, 0,
    )  # fmt: skip
    assert np.isnan(y).sum() == MR * PANEL


def test_the_same_row_has_the_same_bits_in_a_tile_of_any_height(rng):
    depth = 37
    tables, x, w, weights, y, y_step = problem(rng, MR, depth)
    x[:], w[:] = rng.standard_normal(x.size), rng.standard_normal(w.size)
    whole, single = y.copy(), y
    whole_aligned = aligned(y.size)
    whole_aligned[:] = whole
    args = (2 * MR, depth, x, 5, w, PANEL, W_STEP)
    multiply(
        tables, 0, MR, MR, *args, whole_aligned, LANES, y_step, weights, 16, 0.0, 0, 0
    )  # fmt: skip
    for i in range(MR):
        multiply(
            tables, i, 1, MR + i, *args, single, LANES, y_step, weights, 16, 0.0, 0, 0
        )  # fmt: skip
    np.testing.assert_array_equal(single, whole_aligned)


# --- Rows side by side ----------------------------------------------------------------------------


@kernel
def compiled_accumulate(tables, count, col, depth, x, w, y, more):
    accumulate(tables, count, col, depth, x, 16, w, PANEL, y, LANES, more, w, 0, 0)


def plain_accumulate(tables, count, col, depth, x, w, y, more):
    accumulate_plain(tables, count, col, depth, x, 16, w, PANEL, y, LANES, more, w, 0, 0)


@pytest.mark.parametrize("form", [compiled_accumulate, plain_accumulate], ids=["vectors", "plain"])
@pytest.mark.parametrize("more", [False, True], ids=["anew", "more"])
@pytest.mark.parametrize("depth", [0, 1, 19])
def test_rows_side_by_side_are_exact_on_integers(rng, form, more, depth):
    for count in range(1, SIDE_BY_SIDE + 1):
        tables, x, w, _, y, _ = problem(rng, count, depth)
        cols = tables[2 * count :]
        want = y.copy()
        for i, j in np.ndindex(count, LANES):
            terms = (
                int(x[16 + 16 * i + c]) * int(w[PANEL + 16 * k + j]) for k, c in enumerate(cols)
            )
            want[LANES + 16 * i + j] = sum(terms, int(y[LANES + 16 * i + j]) if more else 0)
        form(tables, count, 2 * count, depth, x, w, y, more)
        np.testing.assert_array_equal(y, want)


def test_what_was_there_does_not_matter_when_a_sum_begins(rng):
    tables, x, w, _, y, _ = problem(rng, 3, 4)
    y[:] = np.nan
    compiled_accumulate(tables, 3, 6, 4, x, w, y, False)
    assert np.isfinite(y).sum() == 3 * LANES


# --- Another processor ----------------------------------------------------------------------------


def assembly_for_arm(height, gathered, cpu):
    """What LLVM emits on AArch64 for the loop of a tile of this height, of one vector per row."""
    pointer, integer = ir.FloatType().as_pointer(), ir.IntType(64)
    kinds = [integer.as_pointer(), integer, pointer, pointer, pointer, pointer, integer]
    module = ir.Module()
    module.triple = ARM
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    cols, depth, x, w, y, ahead, step = function.args
    for argument in (cols, x, w, y, ahead):
        argument.add_attribute("noalias")
    offsets = [builder.load(builder.gep(cols, [integer(-i)])) for i in range(1, height + 1)]
    corners = [
        builder.gep(x, [offset if gathered else integer(i * LANES)])
        for i, offset in enumerate(offsets)
    ]
    sums = microkernel._emit_sums(
        builder,
        height,
        1,
        lambda i, way: builder.gep(corners[i], [way]),
        cols,
        depth,
        w,
        integer(0),
        ahead,
        step,
    )
    for i, (total,) in enumerate(sums):
        microkernel.store(builder, total, builder.gep(y, [integer(i * LANES)]))
    builder.ret_void()
    machine = llvm.Target.from_triple(ARM).create_target_machine(cpu=cpu, opt=3)
    compiled, options = llvm.parse_assembly(str(module)), llvm.create_pipeline_tuning_options(3)
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        compiled, llvm.create_pass_builder(machine, options)
    )
    return machine.emit_assembly(compiled)


ARM = "aarch64-unknown-linux-gnu"


@pytest.mark.parametrize("cpu", ["generic", "neoverse-n1", "apple-m1"])
@pytest.mark.parametrize("gathered", [False, True])
def test_the_tile_of_aarch64_stays_in_its_registers(cpu, gathered, monkeypatch):
    """Nothing is spilled to the stack, and a multiply-add takes a float from its lane."""
    try:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.Target.from_triple(ARM)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"this LLVM knows no AArch64: {error}")
    if not hasattr(llvm, "create_pass_builder"):
        pytest.skip("this llvmlite has no new pass manager")
    tile = microkernel.tile_of(ARM, cpu, "")
    assert tile == microkernel.Tile(6, 6, 1)
    monkeypatch.setattr(microkernel, "TILE", tile)
    monkeypatch.setattr(microkernel, "PANEL", LANES)
    for height in (1, tile.mr):  # fewer rows need fewer registers
        text = assembly_for_arm(height, gathered, cpu)
        assert not re.findall(r"\bq\d+, .*\[sp", text)  # vectors of four floats, on the stack
        assert len(re.findall(r"\bfmla\b", text)) == 4 * height
        assert "dup" not in text  # a float is multiplied from its lane


MAIN = """
#include <stdint.h>
#include <stdio.h>
#define HEIGHT %d
#define DEPTH 19
void tile(int64_t *cols, int64_t depth, float *x, float *w, float *y, float *ahead, int64_t step);
static _Alignas(64) float x[900], w[DEPTH * 16], y[HEIGHT * 16];
static int64_t table[HEIGHT + DEPTH];
int main(void) {
    int64_t *cols = table + HEIGHT;
    for (int i = 0; i < HEIGHT; i++) cols[-1 - i] = GATHERED ? (i * 37) %% 100 : i * 16;
    for (int k = 0; k < DEPTH; k++) cols[k] = (k * 53) %% 300;
    for (int i = 0; i < 900; i++) x[i] = (i * 7) %% 17 - 8;
    for (int i = 0; i < DEPTH * 16; i++) w[i] = (i * 5) %% 13 - 6;
    tile(cols, DEPTH, x, w, y, w, 0);
    for (int i = 0; i < HEIGHT; i++)
        for (int j = 0; j < 16; j++) {
            float want = 0;  /* integers: exact in any order */
            for (int k = 0; k < DEPTH; k++) want += x[cols[-1 - i] + cols[k]] * w[k * 16 + j];
            float got = y[i * 16 + j];
            if (got != want) return printf("%%d %%d: %%g, not %%g", i, j, got, want);
        }
    return puts("right") < 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("gathered", [False, True])
def test_the_tile_of_aarch64_is_exact_on_integers_in_an_emulator(gathered, monkeypatch, tmp_path):
    """What LLVM emits for it, between a C program and qemu: every height, and the depth 19."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64-static")
    if not compiler or not emulator:
        pytest.skip("needs aarch64-linux-gnu-gcc and qemu-aarch64-static")
    if not hasattr(llvm, "create_pass_builder"):
        pytest.skip("this llvmlite has no new pass manager")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    tile = microkernel.tile_of(ARM, "generic", "")
    monkeypatch.setattr(microkernel, "TILE", tile)
    monkeypatch.setattr(microkernel, "PANEL", LANES)
    for height in range(1, tile.mr + 1):
        (tmp_path / "tile.s").write_text(assembly_for_arm(height, gathered, "generic"))
        (tmp_path / "main.c").write_text(MAIN % height)
        command = [compiler, "-static", f"-DGATHERED={int(gathered)}", "-o", "main"]
        subprocess.run([*command, "main.c", "tile.s"], cwd=tmp_path, check=True)
        done = subprocess.run([emulator, "./main"], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "right\n")
