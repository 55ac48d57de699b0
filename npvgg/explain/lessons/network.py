"""Train and deploy form side by side: what folding saves, and what each block sees."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from npvgg.config import RepVGGConfig, expand
from npvgg.explain.lesson import Lesson
from npvgg.hub.pretrained import split_tag
from npvgg.model import RepVGG
from npvgg.pages.parts import Bars, Document, Paragraph, Table
from npvgg.summary import Counts, Info, info
from npvgg.variants import VARIANTS

COLUMNS = ("parameters", "macs", "activations")


@dataclass(frozen=True)
class BlockRow:
    """A block, or several alike in a row (`count`): what it puts out, what it sees, what it costs.

    receptive_field: the side, in pixels of the image, of the square that a number of its output
    depends on; of the last of several
    """

    name: str
    count: int
    out_shape: tuple[int, ...]
    receptive_field: int
    train: Counts
    deploy: Counts


@dataclass(frozen=True, eq=False, repr=False)
class NetworkLesson(Lesson):
    """The table of a network; counts are per image, by `npvgg.summary`."""

    model: str
    input_size: tuple[int, int, int]
    blocks: tuple[BlockRow, ...]
    head: BlockRow | None
    train: Counts
    deploy: Counts
    saved: Counts

    @property
    def collapsed(self) -> tuple[BlockRow, ...]:
        """The blocks, those alike in a row as one; counts are of each."""

        def kind(row: BlockRow) -> object:
            return row.name.rpartition(".")[0], row.out_shape, row.train, row.deploy

        rows = []
        for _, group in groupby(self.blocks, kind):
            alike = list(group)
            first, last = alike[0], alike[-1]
            name = first.name + (f" … {last.name.rpartition('.')[2]}" if len(alike) > 1 else "")
            rows.append(
                BlockRow(
                    name,
                    len(alike),
                    first.out_shape,
                    last.receptive_field,
                    first.train,
                    first.deploy,
                )
            )
        return tuple(rows)

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [*self.collapsed, *([self.head] if self.head else [])]
        total = BlockRow("total", 1, (), 0, self.train, self.deploy)
        return [
            (
                row.name,
                f"{row.count}" if row is not total else "",
                "×".join(map(str, row.out_shape)),
                str(row.receptive_field or ""),
                *(f"{getattr(form, c):,}" for c in COLUMNS for form in (row.train, row.deploy)),
            )
            for row in [*rows, total]
        ]

    def document(self) -> Document:
        """Return the table, and what folding saves."""
        head = (
            "block",
            "count",
            "output",
            "sees",
            *(f"{what} {form}" for what in COLUMNS for form in ("train", "deploy")),
        )
        last = self.blocks[-1].receptive_field
        return Document(
            self.says("{model} at {size}", size="×".join(map(str, self.input_size))),
            (
                Paragraph(
                    "Every block is trained with branches (train) and run as one 3×3 convolution "
                    "(deploy). `sees` is the receptive field: the side, in pixels of the image, "
                    "of the square that one output number depends on. Of blocks alike in a row "
                    "the counts are those of each."
                ),
                Table(head, tuple(self._rows())),
                Paragraph(
                    self.says(
                        "Folding takes away {saved[parameters]:,} of {train[parameters]:,} "
                        "parameters and {saved[macs]:,} of {train[macs]:,} multiply-accumulates "
                        "({share:.1%}); of {train[activations]:,} activations, which have to "
                        "be written and read again, {saved[activations]:,} ({memory:.1%}). Where "
                        "memory is what costs, the second number is nearer to the time saved than "
                        "the first.",
                        share=self.saved.macs / self.train.macs,
                        memory=self.saved.activations / self.train.activations,
                    )
                ),
                Bars(
                    {row.name: float(row.receptive_field) for row in self.collapsed},
                    self.says(
                        "Receptive fields. The image is {input_size[1]}×{input_size[2]} pixels; "
                        "the last map's numbers see {last} along a side.",
                        last=last,
                    ),
                    unit=" px",
                ),
            ),
        )

    def as_csv(self) -> str:
        """Every block in a row, with names of columns, as comma-separated values."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ["name", "out_shape", "receptive_field"]
            + [f"{form}_{c}" for form in ("train", "deploy") for c in COLUMNS]
        )
        for row in [*self.blocks, *([self.head] if self.head else [])]:
            writer.writerow(
                [row.name, "x".join(map(str, row.out_shape)), row.receptive_field or ""]
                + [getattr(form, c) for form in (row.train, row.deploy) for c in COLUMNS]
            )
        return file.getvalue()

    def as_latex(self) -> str:
        """Return the table with repeats collapsed, for the package booktabs."""
        forms = " & ".join(rf"\multicolumn{{2}}{{c}}{{{what}}}" for what in COLUMNS)
        lines = [
            r"\begin{tabular}{lrlrrrrrrr}",
            r"\toprule",
            rf"block & count & output & sees & {forms} \\",
            " & & & & " + " & ".join(["train & deploy"] * len(COLUMNS)) + r" \\",
            r"\midrule",
        ]
        for row in self._rows():
            cells = [c.replace("×", r"$\times$").replace(" … ", "--") for c in row]
            lines += [r"\midrule"] * (row[0] == "total") + [" & ".join(cells) + r" \\"]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def network(
    model: RepVGG | RepVGGConfig | str, input_size: Sequence[int] | None = None
) -> NetworkLesson:
    """Show a network block by block: shapes, receptive field, parameters, MACs, activations.

        field' = field + 2·dilation·step          step' = step·stride        from field = step = 1

    model, input_size: as of `npvgg.info`. Raises ArgumentError.
    """
    counted: Info = info(model, input_size)
    config = _config(model)
    field, step = 1, 1
    rows = []
    layers = {layer.name: layer for layer in counted.layers}
    for spec in expand(config):
        field += 2 * spec.dilation * step
        step *= spec.stride
        layer = layers.pop(spec.name)
        rows.append(BlockRow(spec.name, 1, layer.output_shape, field, layer.train, layer.deploy))
    head = next(iter(layers.values()), None)
    train, deploy = counted.train, counted.deploy
    return NetworkLesson(
        model=counted.name,
        input_size=counted.input_size,
        blocks=tuple(rows),
        head=BlockRow(head.name, 1, head.output_shape, 0, head.train, head.deploy)
        if head
        else None,
        train=train,
        deploy=deploy,
        saved=Counts(*(getattr(train, c) - getattr(deploy, c) for c in COLUMNS)),
    )


def _config(model: RepVGG | RepVGGConfig | str) -> RepVGGConfig:
    if isinstance(model, str):
        return VARIANTS[split_tag(model)[0]]
    return model.config if isinstance(model, RepVGG) else model
