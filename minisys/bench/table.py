"""Measured rows as text: one line as each is measured, and a table of all, by rich where it is there."""

from collections.abc import Sequence


def line(row: dict) -> str:
    """One row in one line: median with spread, rates and shares of the ceilings, or why there are none."""
    head = f"t {row['t']:>6} {row['direction']:<8} {row['case']:<18}"
    if "median_ms" not in row:
        return f"{head} {row['reason']}"
    return (
        f"{head} {number(row['median_ms']):>7} ms ({number(row['p10_ms'])} to {number(row['p90_ms'])}), "
        f"{rate(row['tflops_per_s'], 'FLOP/s')} = {percent(row['matmul_share'])} of matmul, "
        f"{rate(row['tb_per_s'], 'B/s')} = {percent(row['copy_share'])} of copy"
    )


def matrix(rows: Sequence[dict], *, plain: bool = False) -> str:
    """A table for each direction: a line a case, a column a size, and below them what was not measured.

    A cell is the median in milliseconds and the share of the nearer ceiling, matrix product or copy.
    """
    blocks = []
    for direction in dict.fromkeys(row["direction"] for row in rows if "median_ms" in row):
        here = [row for row in rows if row.get("direction") == direction and "median_ms" in row]
        sizes = sorted({row["t"] for row in here})
        cells = {(row["case"], row["t"]): _cell(row) for row in here}
        body = [
            [case, *(cells.get((case, t), "–") for t in sizes)]
            for case in dict.fromkeys(row["case"] for row in here)
        ]
        title = f"{direction}: median ms, and % of the nearer ceiling (matrix product or copy), by t"
        blocks.append(_table(title, ["t", *map(str, sizes)], body, plain))
    return "\n\n".join([*blocks, *_reasons(rows)])


def number(value: float) -> str:
    """Three significant digits, without an exponent from 0.0001 on: 0.0120, 1.20, 123, 1234."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def rate(tera: float, unit: str) -> str:
    """A rate given in 10¹² a second, in tera or giga: 312 TFLOP/s, 42.1 GB/s."""
    return f"{number(tera)} T{unit}" if tera >= 1 else f"{number(1000 * tera)} G{unit}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def _cell(row: dict) -> str:
    return f"{number(row['median_ms'])} {percent(max(row['matmul_share'], row['copy_share']))}"


def _reasons(rows: Sequence[dict]) -> list[str]:
    """What was not measured: each reason once a case, with the sizes it holds for."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        if "reason" in row:
            sizes = found.setdefault((row["case"], row["reason"]), {})
            if "t" in row:
                sizes.setdefault(row["direction"], []).append(str(row["t"]))
    if not found:
        return []
    said = []
    for (case, reason), sizes in found.items():
        where = "; ".join(f"{direction} {', '.join(ts)}" for direction, ts in sizes.items())
        said.append(f"  {case}{f' ({where})' if where else ''}: {reason}")
    return ["not measured:\n" + "\n".join(said)]


def _table(title: str, header: list[str], body: list[list[str]], plain: bool) -> str:
    if not plain:
        try:
            return _rich_table(title, header, body)
        except ImportError:
            pass
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(cells, widths, strict=True))
        )
        for cells in [header, *body]
    ]
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _rich_table(title: str, header: list[str], body: list[list[str]]) -> str:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=index == 0)
    for cells in body:
        table.add_row(*cells)
    console = Console()
    with console.capture() as shown:
        console.print(table)
    return f"{title}\n" + shown.get().rstrip("\n")
