"""Sphinx extension: pages quote rows of the claims ledger by id, and a dangling id fails a strict build.

- the role ``{claim}`nsa-stride` `` names a row with its status and links to it,
- the directive ``{claim-row} nsa-stride`` shows one row,
- the directive ``{claims-table}`` shows the whole ledger; the links of the other two lead to its rows,
- the directive ``{claims-sources}`` lists who says it, with citations.

The ledger is `minisys.claims`, read once a build. A page that quotes a row is built again when the ledger or
a result file of that row changes. An unknown id, a ledger that breaks its rules and a link to a table that
no page has are Sphinx warnings with a location.
"""

from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import roles
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains import Domain
from sphinx.util import logging
from sphinx.util.docutils import ReferenceRole, SphinxDirective
from sphinx.util.nodes import make_refnode

from minisys import claims

logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "claims_static"
COLUMNS = ("Claim", "Claimed", "Ours", "Status")


class html_element(nodes.General, nodes.Element):  # noqa: N801, docutils writes node classes this way
    """An HTML element that docutils has no node for; writers of other formats show what it holds."""


def element(tag: str, *children: nodes.Node, classes: str = "", **attributes: str) -> html_element:
    return html_element("", *children, tag=tag, attributes=attributes, classes=classes.split())


def visit_element_html(translator, node: html_element) -> None:
    translator.body.append(translator.starttag(node, node["tag"], "", **node["attributes"]))


def depart_element_html(translator, node: html_element) -> None:
    translator.body.append(f"</{node['tag']}>\n")


def visit_element_other(translator, node: html_element) -> None:
    pass


def depart_element_other(translator, node: html_element) -> None:
    pass


class ClaimDomain(Domain):
    """Knows which page holds the table, and links rows to it."""

    name = "claim"
    label = "claims ledger"
    dangling_warnings = {  # noqa: RUF012, as Sphinx has it
        "row": "claim %(target)r has no row to link to: no page of the book has a claims-table"
    }

    @property
    def pages(self) -> dict[str, str]:
        """The page that shows a row, by id."""
        return self.data.setdefault("pages", {})

    def clear_doc(self, docname: str) -> None:
        for id in [id for id, page in self.pages.items() if page == docname]:
            del self.pages[id]

    def merge_domaindata(self, docnames: list[str], otherdata: dict) -> None:
        self.pages.update({id: page for id, page in otherdata.get("pages", {}).items() if page in docnames})

    def resolve_xref(self, env, fromdocname, builder, typ, target, node, contnode):
        page = self.pages.get(target)
        return make_refnode(builder, fromdocname, page, f"claim-{target}", contnode) if page else None

    def resolve_any_xref(self, env, fromdocname, builder, target, node, contnode):
        return []


def use_ledger(env, location) -> claims.Ledger | None:
    """The ledger, or None after a warning. Notes that the page must be built again when it changes."""
    note_files(env, [env.app.claims_path])
    if env.app.claims_ledger is None:
        warn("the claims ledger is not valid: see the warnings at its own path", location)
    return env.app.claims_ledger


def find_claim(env, id: str, location) -> claims.Claim | None:
    """The row `id`, or None after a warning. Notes which result files the page depends on."""
    ledger = use_ledger(env, location)
    if ledger is None:
        return None
    try:
        claim = ledger[id]
    except claims.ClaimsError as error:
        warn(f"claim {error.problems[0]}", location)
        return None
    note_files(env, ledger.result_files(claim))
    return claim


def warn(message: str, location) -> None:
    logger.warning("%s", message, location=location, type="claims")


def note_files(env, files: list[Path]) -> None:
    for file in files:
        env.note_dependency(str(file.resolve()))


def prose(text: str) -> list[nodes.Node]:
    """`text` with what stands between backticks as code, and no line break before a percent sign."""
    parts = enumerate(text.replace(" %", "\N{NO-BREAK SPACE}%").split("`"))
    return [nodes.literal(part, part) if place % 2 else nodes.Text(part) for place, part in parts if part]


def status_badge(claim: claims.Claim) -> nodes.inline:
    kind = "claim-" + claim.status.replace(" ", "-")
    return nodes.inline(claim.status, claim.status, classes=["claim-status", kind])


def row_link(env, claim: claims.Claim, content: nodes.Node) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "", content, refdomain="claim", reftype="row", reftarget=claim.id, refdoc=env.docname, refwarn=True
    )


def entries(lines: list[str] | tuple[str, ...], note: bool = False) -> list[nodes.Node]:
    kind = "claim-note" if note else "claim-entry"
    return [nodes.inline("", "", *prose(line), classes=[kind]) for line in lines]


def claimed(ledger: claims.Ledger, claim: claims.Claim) -> list[nodes.Node]:
    who = ", ".join(ledger.sources[key].name for key in claim.source)
    return entries([str(number) for number in claim.claimed]) + entries([f"by {who}"], note=True)


def ours(claim: claims.Claim) -> list[nodes.Node]:
    if not claim.ours:
        return entries([{"out of reach": "not measured"}.get(claim.status, "not yet")])
    where = [f"`{name}.json`, {hardware}" for name, hardware in claim.measured_on.items()]
    return entries([str(number) for number in claim.ours]) + entries(where, note=True)


def reasons(claim: claims.Claim) -> list[nodes.Node]:
    needs = [f"Needs: {claim.needs}"] if claim.needs else []
    return entries([*needs, *([claim.evidence] if claim.evidence else [])])


def measuring(claim: claims.Claim) -> list[nodes.Node]:
    commands = [nodes.inline("", "", nodes.literal(command, command), classes=["claim-entry"])
                for command in claim.commands]  # fmt: skip
    return [*entries([claim.how]), *commands, *entries([f"Runs on: {claim.hardware}."], note=True)]


class ClaimRole(ReferenceRole):
    """``{claim}`nsa-stride` `` or ``{claim}`some words <nsa-stride>` ``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        claim = find_claim(self.env, self.target, self.get_location())
        if claim is None:
            return [nodes.literal(self.target, self.target)], []
        link = row_link(self.env, claim, nodes.inline(self.title, self.title))
        self.set_source_info(link)
        quote = nodes.inline("", "", link, nodes.Text(" "), status_badge(claim))
        if not self.has_explicit_title:
            quote["classes"] = ["claim-quote"]
        return [quote], []


class ClaimRow(SphinxDirective):
    """One row: claim, claimed, ours, status, how to measure again."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        id = self.arguments[0]
        claim = find_claim(self.env, id, self.get_location())
        if claim is None:
            return [nodes.paragraph("", "", nodes.literal(id, id))]
        link = row_link(self.env, claim, nodes.inline(id, id))
        self.set_source_info(link)
        title = [nodes.Text("Claim "), link, nodes.Text(" "), status_badge(claim)]
        head = element("div", nodes.inline("", "", *title), classes="claim-head")
        terms = {
            "Claimed": claimed(self.env.app.claims_ledger, claim),
            "Ours": ours(claim),
            "Why": reasons(claim),
            "How to measure": measuring(claim),
        }
        pairs = [
            part for term, shown in terms.items() if shown
            for part in (element("dt", nodes.Text(term)), element("dd", *shown))
        ]  # fmt: skip
        group = {"role": "group", "aria-label": f"Claim {id}"}
        content = (head, nodes.paragraph("", "", *prose(claim.claim)), element("dl", *pairs))
        return [element("div", *content, classes="claim-row", **group)]


class ClaimsTable(SphinxDirective):
    """The whole ledger, with the number of rows of each status as its caption."""

    def run(self) -> list[nodes.Node]:
        ledger = use_ledger(self.env, self.get_location())
        if ledger is None:
            return [nodes.paragraph("", "the claims ledger is not valid")]
        note_files(self.env, ledger.result_files())
        summary = ", ".join(f"{count} {status}" for status, count in ledger.counts().items())
        caption = element("caption", nodes.Text(f"{len(ledger)} claims: {summary}."))
        heads = [element("th", nodes.Text(name), scope="col", role="columnheader") for name in COLUMNS]
        rows = [self.row(ledger, claim) for claim in ledger]
        table = element(
            "table",
            caption,
            element("thead", element("tr", *heads, role="row"), role="rowgroup"),
            element("tbody", *rows, role="rowgroup"),
            classes="claims-table",
            role="table",  # stacking on a narrow screen must not take the table from a screen reader
        )
        label = {"tabindex": "0", "role": "region", "aria-label": "Table of all claims"}
        return [element("div", table, classes="claims-scroll", **label)]

    def row(self, ledger: claims.Ledger, claim: claims.Claim) -> html_element:
        how = element("details", element("summary", nodes.Text("How to measure")), *measuring(claim))
        shown = (claimed(ledger, claim), ours(claim), [status_badge(claim), *reasons(claim), how])
        name = nodes.inline(claim.id, claim.id, classes=["claim-id"])
        head = element("th", name, *entries([claim.claim]), scope="row", role="rowheader")
        cells = [
            element("td", *content, role="cell", **{"data-label": label})
            for label, content in zip(COLUMNS[1:], shown, strict=True)
        ]
        row = element("tr", head, *cells, role="row")
        row["ids"] = [f"claim-{claim.id}"]
        self.env.get_domain("claim").pages[claim.id] = self.env.docname
        return row


class ClaimsSources(SphinxDirective):
    """Who says it, each with its citation where the book has a bibliography."""

    def run(self) -> list[nodes.Node]:
        ledger = use_ledger(self.env, self.get_location())
        items = []
        for source in ledger.sources.values() if ledger else ():
            about = nodes.paragraph("", "", *prose(source.about))
            if "sphinxcontrib.bibtex" in self.env.app.extensions:
                about += [nodes.Text(" "), *self.citation(source.cite)]
            name = nodes.term(source.name, source.name)
            items.append(nodes.definition_list_item("", name, nodes.definition("", about)))
        return [nodes.definition_list("", *items)]

    def citation(self, key: str) -> list[nodes.Node]:
        cite, _ = roles.role("cite:p", None, self.lineno, self.state_machine.reporter)
        found, _ = cite("cite:p", key, key, self.lineno, self.state.inliner)
        return found


def read_ledger(app: Sphinx) -> None:
    """Read the ledger for this build; every problem is a warning at the line of its row."""
    given = [app.config.claims_file, app.config.claims_results]
    path, results = (Path(app.confdir, name) if name else None for name in given)
    app.claims_path = path or claims.paths.claims_file()
    try:
        app.claims_ledger = claims.load(app.claims_path, results)
    except claims.ClaimsError as error:
        app.claims_ledger = None
        for problem in error.problems:
            warn(problem, f"{error.path}:{find_line(error.path, problem.split(':')[0])}")


def find_line(path: Path, id: str) -> int:
    """The line of the ledger where row `id` starts; 1 where there is none."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return next((number for number, line in enumerate(lines, 1) if line.strip(" -") == f"id: {id}"), 1)


def add_static_path(app: Sphinx, config) -> None:
    config.html_static_path = [*config.html_static_path, str(STATIC)]


def setup(app: Sphinx) -> dict:
    app.add_config_value("claims_file", "", "env", [str])
    app.add_config_value("claims_results", "", "env", [str])
    other = (visit_element_other, depart_element_other)
    app.add_node(
        html_element,
        html=(visit_element_html, depart_element_html),
        **dict.fromkeys(("latex", "text", "man", "texinfo"), other),
    )
    app.add_domain(ClaimDomain)
    app.add_role("claim", ClaimRole())
    app.add_directive("claim-row", ClaimRow)
    app.add_directive("claims-table", ClaimsTable)
    app.add_directive("claims-sources", ClaimsSources)
    app.add_css_file("minisys_claims.css")
    app.connect("config-inited", add_static_path)
    app.connect("builder-inited", read_ledger)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
