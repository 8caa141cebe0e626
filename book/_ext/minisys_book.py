"""Sphinx extension of the book: what the pages need beyond Jupyter Book.

- one setting for the repository's address (`configure_repository`),
- the picture of the stack and the pages of the API reference (`book_stack`, `book_api`),
- the table of how notebooks were executed (`book_execution`),
- a start page at the root of the built book, and no links to source files that do not exist.
"""

import sys
from pathlib import Path
from urllib.parse import urlsplit

import book_api
import book_execution
import book_stack
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.ext import autosummary
from sphinx.util.docutils import SphinxDirective

HOSTS = ("github.com", "gitlab.com", "bitbucket.org")  # those whose edit links the theme can write

CORPUS = "sympy==1.14.0"  # a hosted machine may hold another, which would be another corpus

START_PAGE = """\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="icon" href="_static/favicon.svg">
    <script>location.replace("{start}" + location.hash)</script>
    <noscript><meta http-equiv="refresh" content="0; url={start}"></noscript>
  </head>
  <body><p><a href="{start}">Open {title}</a></p></body>
</html>
"""


def repository_options(url: str, branch: str = "main") -> dict[str, object]:
    """Theme options that follow from the repository's address.

    With an empty `url` every button that would lead to the repository, Colab or Binder is left
    out. Raises ``ValueError`` for an address that is not ``https://HOST/OWNER/NAME`` of a host in
    `HOSTS`.
    """
    url = url.strip().rstrip("/").removesuffix(".git")
    buttons = ("use_repository_button", "use_edit_page_button", "use_issues_button")
    if not url:
        return {"repository_url": "", "launch_buttons": {}} | dict.fromkeys(buttons, False)
    parts = urlsplit(url)
    owner_and_name = [part for part in parts.path.split("/") if part]
    if parts.scheme != "https" or parts.hostname not in HOSTS or len(owner_and_name) < 2:
        raise ValueError(
            f"repository url: got {url!r}, expected https://HOST/OWNER/NAME, HOST one of {HOSTS}"
        )
    launch = {"notebook_interface": "jupyterlab"}
    if parts.hostname != "bitbucket.org":
        launch["binderhub_url"] = "https://mybinder.org"
    if parts.hostname == "github.com":
        launch["colab_url"] = "https://colab.research.google.com"
    return {
        "repository_url": url,
        "repository_branch": branch or "main",
        "launch_buttons": launch,
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_issues_button": parts.hostname != "bitbucket.org",
    }


def configure_repository(app: Sphinx, config: Config) -> None:
    """Turn the one setting in `_config.yml` into the theme's options."""
    options = config.html_theme_options
    try:
        found = repository_options(
            options.get("repository_url") or "", options.get("repository_branch") or "main"
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    options.update(found)


class RepositoryNote(SphinxDirective):
    """``{repository-note}``: how to open a notebook without installing, or why this copy cannot say."""

    def run(self) -> list[nodes.Node]:
        url = self.config.html_theme_options.get("repository_url")
        paragraph = nodes.paragraph()
        if url:
            paragraph += nodes.Text("The source of this book is at ")
            paragraph += nodes.reference("", url, refuri=url)
            paragraph += nodes.Text(
                ". The rocket button above a chapter opens its notebook on a hosted service. "
                "On Colab, first run a cell with "
            )
            command = f'%pip install git+{url} "{CORPUS}"'
            paragraph += [nodes.literal(command, command), nodes.Text(".")]
        else:
            paragraph += nodes.Text(
                "This copy of the book was built without a web address for its repository, "
                "so it shows no Colab, Binder or edit links."
            )
        return [paragraph]


def drop_dead_buttons(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Leave out the buttons that lead to the source file of a page that the build wrote itself."""
    if pagename.startswith(book_api.FOLDER):
        dead = ("download-buttons", "source-buttons", "launch-buttons")
        context["header_buttons"] = [b for b in context["header_buttons"] if b.get("label") not in dead]


def name_toggles(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Give the arrows of the sidebar, which are pictures, a name that a screen reader can say."""
    draw = context.get("generate_toctree_html")
    if draw:
        named = '<summary aria-label="Pages below this one">'
        context["generate_toctree_html"] = lambda *args, **options: str(draw(*args, **options)).replace(
            "<summary>", named
        )


def name_citations(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object) -> None:
    """Make the entries of the bibliography items of their list; Sphinx gives them a role since withdrawn."""
    if "body" in context:
        context["body"] = context["body"].replace(' role="doc-biblioentry"', ' role="listitem"')


def write_start_page(app: Sphinx, exception: Exception | None) -> None:
    """Write `index.html`, which leads to the first page, in place of the theme's redirect without a title."""
    if exception is None and app.builder.name == "html":
        start = app.builder.get_target_uri(app.config.root_doc)
        page = START_PAGE.format(start=start, title=app.config.html_title)
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, object]:
    autosummary.WELL_KNOWN_ABBREVIATIONS += ("eq.", "eqs.", "sec.", "fig.")  # no sentence ends there
    if str(app.srcdir) not in sys.path:  # the reference is of this checkout, installed or not
        sys.path.insert(0, str(app.srcdir))
    directives: dict[str, type[Directive]] = {
        "api-modules": book_api.ModuleList,
        "execution-table": book_execution.ExecutionTable,
        "repository-note": RepositoryNote,
        "stack-picture": book_stack.StackPicture,
    }
    for name, directive in directives.items():
        app.add_directive(name, directive)
    app.add_node(
        book_stack.StackNode, html=(book_stack.visit_html, None), latex=(book_stack.visit_other, None)
    )
    # Jupyter Book sets this one whether or not sphinx_comments is loaded.
    app.add_config_value("comments_config", {}, "html")
    app.connect("config-inited", configure_repository)
    app.connect("builder-inited", book_api.write_pages)
    app.connect("autodoc-process-docstring", book_api.prepare_docstring, priority=400)  # napoleon has 500
    app.connect("missing-reference", book_api.resolve_exported_name)
    for change in (drop_dead_buttons, name_toggles, name_citations, book_api.signatures_as_lines):
        app.connect("html-page-context", change, priority=900)  # after the theme filled the context
    app.connect("build-finished", write_start_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
