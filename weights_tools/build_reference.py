"""Build the API reference from the docstrings:  python -m weights_tools.build_reference FOLDER

One page for every module, with its source, in static HTML that needs no network. pdoc is in the
extra `[docs]`. Whatever pdoc warns of is an error, three of its own limits excepted (see LIMITS).
"""

import pkgutil
import re
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

import npvgg

LIMITS = (
    # a TypedDict that inherits from another loses its bases before Python 3.12
    r"Cannot determine where npvgg\.[\w.]*Keywords\.\w+ is taken from",
    # a NamedTuple's generated __init__ has its annotations as text, without the module's names
    r"Error parsing type annotation ForwardRef\(.*\) for npvgg\.[\w.]*[A-Z]\w*\.__init__",
    # a TypeAlias that is text (for Pillow is not imported) is read with other names
    r"Error parsing type annotation (Iterable\[|Iterator\[)?Source\]? for npvgg\.",
)


def modules() -> list[str]:
    """Return what pdoc is given: it follows folders by itself, except past an `__all__`."""
    given, packages = ["npvgg"], [npvgg]
    for package in packages:
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.ispkg:
                packages.append(import_module(module.name))
            public = getattr(package, "__all__", None)
            left_out = public is not None and module.name.rpartition(".")[2] not in public
            if left_out and not module.name.endswith("__main__"):
                given.append(module.name)
    return given


def with_lines_kept(convert):
    """Keep "name: shape" on lines of their own, as in the source; Markdown would join them."""

    def convert_lines(docstring: str, *arguments):
        lines = docstring.split("\n")
        for i, line in enumerate(lines[1:]):
            if re.match(r"\s*[\w.*]+(, [\w.*]+)*: \S", line) and lines[i].strip():
                lines[i] += "  "
        return convert("\n".join(lines), *arguments)

    return convert_lines


def main(folder: str) -> None:
    """Write the reference into a folder."""
    warnings.simplefilter("error")
    for limit in LIMITS:
        warnings.filterwarnings("ignore", limit)
    pdoc.docstrings.convert = with_lines_kept(pdoc.docstrings.convert)
    pdoc.render.configure(docformat="markdown", footer_text=f"npvgg {npvgg.__version__}")
    pdoc.pdoc(*modules(), output_directory=Path(folder))
    written = {path.relative_to(folder).with_suffix("") for path in Path(folder).rglob("*.html")}
    root = Path(npvgg.__file__).parent
    for path in root.rglob("*.py"):
        page = path.relative_to(root.parent).with_suffix("")
        page = page.parent if page.name == "__init__" else page
        if page not in written and page.name != "__main__":
            raise SystemExit(f"no page for {page}")
    print(f"{len(written)} pages in {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
