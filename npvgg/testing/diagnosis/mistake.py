"""What a mistake is: a name, a sentence, advice, and the recipes that somebody who made it follows.

A mistake changes a right recipe. It may have variants (the eps may be 1e-3 or 1e-6, in one branch
or in all), so it is a generator of (detail, changed recipe); where it cannot be made it gives none.
The helpers below change the branches of a `Recipe` in all the combinations that people come up
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from npvgg.ops import Array
from npvgg.reparam import BatchNorm
from npvgg.testing.diagnosis.recipe import Branch, Conv, Recipe

T = TypeVar("T")

BRANCHES = {
    "conv_kxk": "the 3×3 branch",
    "conv_1x1": "the 1×1 branch",
    "identity": "the identity branch",
    "reparam_conv": "the folded convolution",
}
EVERY = "every branch"


@dataclass(frozen=True)
class Mistake(Generic[T]):
    """One mistake that people make.

    said: what was done; "{}" stands for the variant's detail
    advice: how to mend it
    variants: right recipe → (detail, wrong recipe), one for each way to make the mistake
    two: it is two mistakes at once, which are not named where one alone makes the same numbers
    rounds: it rounds to few bits, where noise may decide between two neighbours: single numbers of
        a replay may be far off, and only their mean square tells
    gathered: details of variants that all make the same numbers → what is said of them, fewer
    """

    name: str
    said: str
    advice: str
    variants: Callable[[T], Iterator[tuple[str, T]]]
    rounds: bool = False
    two: bool = False
    gathered: Callable[[list[str]], list[str]] = list

    def sentence(self, *details: str) -> str:
        """Return what was done, in words; several details are alternatives."""
        return self.said.format(", or ".join(self.gathered(list(dict.fromkeys(details)))))


def collector(
    catalogue: list[Mistake[T]], *, rounds: bool = False, two: bool = False
) -> Callable[..., Callable[[Callable[[T], Iterator[tuple[str, T]]]], Mistake[T]]]:
    """Return a decorator that makes a mistake of a generator and puts it into a catalogue."""

    def mistake(
        said: str, advice: str, gathered: Callable[[list[str]], list[str]] = list
    ) -> Callable[[Callable[[T], Iterator[tuple[str, T]]]], Mistake[T]]:
        def collect(variants: Callable[[T], Iterator[tuple[str, T]]]) -> Mistake[T]:
            name = variants.__name__.replace("_", "-")
            catalogue.append(Mistake(name, said, advice, variants, rounds, two, gathered))
            return catalogue[-1]

        return collect

    return mistake


# --- Changing branches ----------------------------------------------------------------------------


def in_branches(
    recipe: Recipe, change: Callable[[Branch], Branch | None]
) -> Iterator[tuple[str, Recipe]]:
    """Change every branch that can be changed, and then each of them alone.

    change: branch → changed branch, or None where it cannot be
    """
    changed = {b.name: new for b in recipe.branches if (new := change(b)) is not None}
    choices = [[*changed]] if len(changed) > 1 else []
    choices += [[name] for name in changed]
    for names in choices:
        where = BRANCHES[names[0]] if len(names) == 1 else EVERY
        yield where, with_branches(recipe, {name: changed[name] for name in names})


def with_branches(recipe: Recipe, changed: dict[str, Branch]) -> Recipe:
    """Return the recipe with some of its branches in place of those of the same names."""
    branches = (changed.get(branch.name, branch) for branch in recipe.branches)
    return replace(recipe, branches=tuple(branches))


def without(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe without one of its branches."""
    return replace(recipe, branches=tuple(b for b in recipe.branches if b.name != name))


def in_convs(
    recipe: Recipe, change: Callable[[Conv], Conv | None], taps: int | None = None
) -> Iterator[tuple[str, Recipe]]:
    """Change convolutions, only those with so many taps a side if that is said."""

    def change_branch(branch: Branch) -> Branch | None:
        conv = branch.conv
        if conv is None or (taps is not None and conv.weight.shape[2] != taps):
            return None
        new = change(conv)
        return None if new is None else replace(branch, conv=new)

    return in_branches(recipe, change_branch)


def in_kernels(
    recipe: Recipe, change: Callable[[Array], Array], taps: int | None = None
) -> Iterator[tuple[str, Recipe]]:
    """Change the weights of convolutions."""

    def change_conv(conv: Conv) -> Conv | None:
        weight = change(conv.weight)
        return None if np.array_equal(weight, conv.weight) else replace(conv, weight=weight)

    return in_convs(recipe, change_conv, taps)


def in_norms(
    recipe: Recipe, change: Callable[[BatchNorm], BatchNorm]
) -> Iterator[tuple[str, Recipe]]:
    """Change the numbers of batch norms."""

    def change_branch(branch: Branch) -> Branch | None:
        return None if branch.bn is None else replace(branch, bn=change(branch.bn))

    return in_branches(recipe, change_branch)


def in_normalizing(
    recipe: Recipe, normalize: Callable[[BatchNorm, Array], Array]
) -> Iterator[tuple[str, Recipe]]:
    """Change what batch norms do with their numbers."""

    def change_branch(branch: Branch) -> Branch | None:
        return None if branch.bn is None else replace(branch, normalize=normalize)

    return in_branches(recipe, change_branch)
