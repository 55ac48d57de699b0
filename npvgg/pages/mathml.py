"""One line of mathematics, as text and as MathML.

    w'[k] = w[k] · γ[k] / √(var[k] + eps)        as it is written in docstrings, and

    {a / b}      a fraction           x[i, j]    indices, where no space stands before them
    Σ{c, r, s}   a sum over them      √(…)       a root          x² xᵀ    powers
    w1, y_train  indices, too         w'         a prime         two spaces, a wide one

Text keeps all but the braces; in MathML each of these has its own shape.
"""

from __future__ import annotations

import re
from html import escape

_LETTER = "[A-Za-zα-ωΑ-ΡΤ-Ω]"
_TOKEN = re.compile(
    rf"{_LETTER}_{_LETTER}+|{_LETTER}\d+|{_LETTER}+(?:[_.]\w+)*[̃~]?|\d+(?:\.\d+)?(?:e-?\d+)?|\s+|.",
    re.DOTALL,
)
_SPACES = {"\u2003": "2em", "\u2005": "0.35em"}
_PRIME = "<mo>′</mo>"
_POWERS = {
    "²": "<mn>2</mn>",
    "ᵀ": "<mi>T</mi>",
    "⁻": "<mo>−</mo>",
    "³": "<mn>3</mn>",
    "'": _PRIME,
}
_CLOSING = {"(": ")", "⟦": "]", "{": "}"}


def plain(text: str) -> str:
    """Return the line as text: a sum's braces become an index, a fraction's fall away."""
    return re.sub(r"Σ\{([^}]*)\}", r"Σ_\1", text).replace("{", "").replace("}", "")


def mathml(text: str) -> str:
    """Return the line as MathML, with the text beside it for those who read that."""
    spaced = re.sub(r"\s{2,}", "\u2003", text)
    spaced = re.sub(r"(?<=[a-z][a-z:])\s(?=[a-z]{2}|\d)", "\u2005", spaced)
    spaced = re.sub(r"\s\[", "⟦", spaced)
    tokens = [t for t in _TOKEN.findall(spaced) if t in _SPACES or not t.isspace()]
    body = _row(tokens, [0], "")
    label = escape(plain(text), quote=True)
    return f'<math display="block" aria-label="{label}">{body}</math>'


def _row(tokens: list[str], at: list[int], end: str) -> str:
    """Everything up to the closing bracket, which is passed over; `at` is moved along."""
    items: list[str] = []
    while at[0] < len(tokens):
        token = tokens[at[0]]
        at[0] += 1
        if token == end:
            break
        if token == "[" and items:
            items.append(_indexed(items.pop(), f"<mrow>{_row(tokens, at, ']')}</mrow>"))
        elif token in _POWERS and items:
            items.append(_raised(items.pop(), _POWERS[token]))
        elif token == "√" and _next(tokens, at) == "(":
            at[0] += 1
            items.append(f"<msqrt>{_row(tokens, at, ')')}</msqrt>")
        elif token == "Σ" and _next(tokens, at) == "{":
            at[0] += 1
            under = _row(tokens, at, "}")
            items.append(f"<munder><mo>Σ</mo><mrow>{under}</mrow></munder>")
        elif token == "{":
            inner = _row(tokens, at, "}")
            above, bar, below = inner.partition("<mo>/</mo>")
            fraction = f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"
            items.append(fraction if bar else f"<mrow>{inner}</mrow>")
        elif token in "(⟦":  # ⟦ stands for a bracket behind a space, which is no index
            inner = _row(tokens, at, _CLOSING[token])
            opening = token.replace("⟦", "[")
            items.append(f"<mrow><mo>{opening}</mo>{inner}<mo>{_CLOSING[token]}</mo></mrow>")
        elif token in _SPACES:
            items.append(f'<mspace width="{_SPACES[token]}"/>')
        elif parts := re.fullmatch(rf"({_LETTER})(?:_(\w+)|(\d+))", token):
            letter, name, digit = parts.groups()
            below = f"<mi>{name}</mi>" if name else f"<mn>{digit}</mn>"
            items.append(f"<msub><mi>{letter}</mi>{below}</msub>")
        elif token[0].isdigit():
            items.append(f"<mn>{token}</mn>")
        elif token[0].isalpha():
            items.append(f"<mi>{escape(token)}</mi>")
        else:
            items.append(f"<mo>{escape(token)}</mo>")
    return "".join(items)


def _indexed(item: str, index: str) -> str:
    """Return what has an index; a prime stays above it."""
    if item.endswith(end := f"{_PRIME}</msup>"):
        return f"<msubsup>{item[len('<msup>') : -len(end)]}{index}{_PRIME}</msubsup>"
    return f"<msub>{item}{index}</msub>"


def _raised(item: str, power: str) -> str:
    """Return what has a power; it stands above an index."""
    if item.startswith("<msub>"):
        return f"<msubsup>{item[len('<msub>') : -len('</msub>')]}{power}</msubsup>"
    return f"<msup>{item}{power}</msup>"


def _next(tokens: list[str], at: list[int]) -> str:
    return tokens[at[0]] if at[0] < len(tokens) else ""
