"""The API reference: one page for each module of the package, listed by looking at the files.

Nobody keeps a list: a new module gets its page at the next build. The pages are written into
`FOLDER`, which git ignores, and the table of contents takes them by a pattern.
"""

import ast
import importlib
import re
from pathlib import Path

from book_stack import ROWS
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

FOLDER = "book/api/generated"
PACKAGE = "minisys"
COLUMN = re.compile(r"(\s*)(``[^`]+``)\s{2,}(\S.*)")
# Modules that a later chapter teaches than the first one of their topic; the longest beginning counts.
CHAPTERS = {
    "minisys.nsa.kernels": "notebooks/02_nsa_kernels",
    "minisys.nsa.kernels.decode": "notebooks/03_nsa_decoding",
    "minisys.nsa.cache": "notebooks/03_nsa_decoding",
    "minisys.nsa.decoding": "notebooks/03_nsa_decoding",
}
LIST_ITEM = re.compile(r"\s*(-|\d+\.)\s+\S")


def find_modules(root: Path) -> dict[str, Path]:
    """Public modules of the package in `root`, by name, a package before its modules."""
    modules = {}
    for path in (root / PACKAGE).rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        if not any(part.startswith("_") for part in parts):
            modules[".".join(parts)] = path
    return dict(sorted(modules.items()))


def public_names(tree: ast.Module) -> list[str]:
    """Documented public functions and classes that the module itself defines, in source order."""
    names = []
    statements: list[ast.stmt] = list(tree.body)
    while statements:
        statement = statements.pop(0)
        if isinstance(statement, ast.If | ast.Try):  # such as: if Triton is installed
            statements[:0] = statement.body + statement.orelse
        elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
            documented = ast.get_docstring(statement) and not statement.name.startswith("_")
            if documented and statement.name not in names:
                names.append(statement.name)
    return names


def first_line(tree: ast.Module) -> str:
    """First paragraph of the module's docstring on one line."""
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def module_page(name: str, path: Path, modules: dict[str, Path], chapter: str | None) -> str:
    """reStructuredText of one module's page; `chapter` is the page that teaches it, if there is one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lines = [name, "=" * len(name), ""]
    if chapter:
        lines += [f"Taught in :doc:`/{chapter}`.", ""]
    lines += [f".. automodule:: {name}", ""]
    inside = [other for other in modules if other.rpartition(".")[0] == name]
    if inside:
        lines += [
            ".. rubric:: Modules",
            "",
            ".. autosummary::",
            "",
            *(f"   {other.rpartition('.')[2]}" for other in inside),
            "",
        ]
    names = public_names(tree)
    if len(names) > 1:
        lines += [".. rubric:: In this module", "", f".. currentmodule:: {name}", ""]
        lines += [".. autosummary::", "   :nosignatures:", "", *(f"   {public}" for public in names), ""]
    for public in names:
        kind = "autoclass" if _is_class(tree, public) else "autofunction"
        lines += [f".. {kind}:: {name}.{public}", *(["   :members:"] if kind == "autoclass" else []), ""]
    return "\n".join(lines)


def _is_class(tree: ast.Module, name: str) -> bool:
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(tree))


def chapter_of(module: str) -> str | None:
    """Page that teaches the module: one of `CHAPTERS`, else that of its topic in the picture of the stack."""
    beginnings = [beginning for beginning in CHAPTERS if module.startswith(beginning)]
    if beginnings:
        return CHAPTERS[max(beginnings, key=len)]
    for _, topics in ROWS:
        for topic in topics:
            if topic.package and f"{module}.".startswith(f"{topic.package}."):
                return topic.page if topic.page and not topic.page.startswith(FOLDER) else None
    return None


def write_pages(app: Sphinx) -> None:
    """Write the page of every module, and remove pages of modules that are gone."""
    root, folder = Path(app.srcdir), Path(app.srcdir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    modules = find_modules(root)
    in_book = app.config.external_site_map
    for name, path in modules.items():
        chapter = chapter_of(name)
        text = module_page(name, path, modules, chapter if chapter in in_book else None)
        page = folder / f"{name}.rst"
        if not page.exists() or page.read_text(encoding="utf-8") != text:  # an unchanged page is not rebuilt
            page.write_text(text, encoding="utf-8")
    for page in folder.glob("*.rst"):
        if page.stem not in modules:
            page.unlink()


def as_nodes(text: str) -> list[nodes.Node]:
    """Text with its parts between backticks as code."""
    parts = re.split(r"``?([^`]+)``?", text)
    return [nodes.literal(part, part) if i % 2 else nodes.Text(part) for i, part in enumerate(parts)]


def prepare_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn a plain docstring into what napoleon and reStructuredText expect. Runs before napoleon.

    A list gets the blank lines around it. A column of code with its explanations beside it becomes a
    definition list. The docstring of a property keeps its first line, which napoleon would otherwise
    read as "type: description" wherever it holds a colon.
    """
    prepared = ["..", ""] if what in ("attribute", "data", "property") else []
    block: int | None = None  # indent of the list or column that the lines are in
    in_column = False
    for line in lines:
        indent = len(line) - len(line.lstrip())
        column = COLUMN.match(line)
        opens = column is not None or LIST_ITEM.match(line) is not None
        closes = bool(line.strip()) and block is not None and not opens and indent <= block
        if prepared and prepared[-1].strip() and (closes or (opens and (block is None or column))):
            prepared.append("")
        if closes:
            block, in_column = None, False
        elif opens and block is None:
            block, in_column = indent, column is not None
        if column:
            prepared += [column[1] + column[2], f"{column[1]}    {column[3]}"]
        elif in_column and line.strip():
            prepared.append(" " * (block + 4) + line.strip())
        else:
            prepared.append(line)
    lines[:] = prepared


def signatures_as_lines(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object
) -> None:
    """Mark up the parameters of a long signature as lines: Sphinx writes a definition list without terms."""

    def as_lines(signature: re.Match) -> str:
        lines = re.sub(r"<(/?)dd>", r"<\1div>", signature[0])
        return lines.replace("<dl>", '<div class="sig-lines">').replace("</dl>", "</div>")

    if pagename.startswith(FOLDER):
        context["body"] = re.sub(r'<dt class="sig .*?</dt>', as_lines, context["body"], flags=re.S)


class ModuleList(SphinxDirective):
    """``{api-modules}``: every module with a link to its page and the first sentence of its docstring."""

    def run(self) -> list[nodes.Node]:
        entries = nodes.definition_list()
        for name, path in find_modules(Path(self.env.srcdir)).items():
            self.env.note_dependency(str(path))
            tree = ast.parse(path.read_text(encoding="utf-8"))
            link = addnodes.pending_xref(
                "", nodes.literal(name, name), refdomain="std", reftype="doc", reftarget=f"/{FOLDER}/{name}",
                refexplicit=True, refdoc=self.env.docname,
            )  # fmt: skip
            entry = nodes.definition_list_item("", nodes.term("", "", link))
            entry += nodes.definition("", nodes.paragraph("", "", *as_nodes(first_line(tree))))
            entries += entry
        self.env.note_reread()  # a new module is a new file that no dependency names
        return [entries]


def resolve_exported_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.Node
) -> nodes.Node | None:
    """Let ``minisys.nsa.name``, as users import it, link to the module that defines `name`."""
    target = node.get("reftarget", "")
    package, _, name = target.rpartition(".")
    if node.get("refdomain") != "py" or not package.startswith(f"{PACKAGE}"):
        return None
    try:
        found = getattr(importlib.import_module(package), name)
        home = f"{found.__module__}.{found.__qualname__}"
    except (ImportError, AttributeError):
        return None
    domain = env.get_domain("py")
    if home == target or home not in domain.objects:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, contnode)
