"""Tables of `channels/cut.py`."""

import numpy as np


def table(results):
    """Return the results as tables for the documentation."""
    parts = (_budgets, _architectures, _counts, _graphs, _latency)
    names = ("budgets", "architectures", "counts", "graphs", "latency")
    lines = [
        part(results.get(name, {})) for part, name in zip(parts, names, strict=True)
    ]
    return "\n\n".join("\n".join(own) for own in lines)


def _budgets(rows):
    yield "| network | budget | parameters kept | MACs kept | counts agree | seconds |"
    yield "|---|---|---|---|---|---|"
    for name, row in rows.items():
        asked = ", ".join(f"{kind} {share:.1%}" for kind, share in row["asked"].items())
        kept = [
            f"{row['after'][i]:,} ({row[kind]:.1%})"
            for i, kind in enumerate(("params", "macs"))
        ]
        agree = "yes" if row["counts_agree"] else "no"
        cells = [name, asked, *kept, agree, f"{row['seconds']:.1f}"]
        yield f"| {' | '.join(cells)} |"


def _architectures(rows):
    yield (
        "| network | removable channels | MACs kept | parameters kept | counts agree "
        "| difference to masked | difference to original | int8 file runs | seconds |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        agree = row["params_agree"] and row["counts_agree"]
        difference = "not comparable" if row["averages"] else f"{row['difference']:.0e}"
        cells = [
            name,
            f"{row['touched']:.1%}",
            f"{row['macs']:.1%}",
            f"{row['params']:.1%}",
            "yes" if agree else "no",
            difference,
            f"{row['of_whole']:.2f}",
            "yes" if row["runs"] else "no",
            f"{row['seconds']:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _counts(rows):
    """Name the networks whose counts differ, and sum up the others."""
    yield "| network | counted | in the int8 file | difference |"
    yield "|---|---|---|---|"
    unlike = {k: row for k, row in rows.items() if row["counted"] != row["file"]}
    yield f"| {len(rows) - len(unlike)} of {len(rows)} networks | | | none |"
    for name, row in unlike.items():
        counted, found = row["counted"], row["file"]
        share = f"{found / counted - 1:+.2%}"
        yield f"| {name} | {counted:,} | {found:,} | {share} |"


def _graphs(rows):
    cut = [row for row in rows.values() if "refused" not in row]
    yield (
        "| random graphs | cut | rejected | changed predictions | wrong "
        "| largest difference to masked | removable channels | protected in vain |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    if cut:
        alike = [row for row in cut if not row["averages"]]
        wrong = [r for r in cut if not r["params_agree"]]
        wrong += [r for r in alike if r["params_agree"] and r["difference"] > 1e-5]
        largest = max(row["difference"] for row in alike)
        touched = np.mean([row["touched"] for row in cut])
        changed = sum(row["of_whole"] > 0.01 for row in cut)
        cells = (len(rows), len(cut), len(rows) - len(cut), changed, len(wrong))
        text = " | ".join(map(str, cells))
        searched = [row["in_vain"] for row in cut if "in_vain" in row]
        in_vain = f"{np.mean(searched):.2%}" if searched else ""
        yield f"| {text} | {largest:.0e} | {touched:.1%} | {in_vain} |"


def _latency(rows):
    yield (
        "| network, kept | MACs | parameters | time | lowest, highest | time to MACs "
        "| ms |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, row in rows.items():
        if "refused" in row:
            yield f"| {name} | not reachable | | | | | |"
            continue
        before, after = row["ms"]
        cells = [
            name,
            f"{row['macs']:.1%}",
            f"{row['params']:.1%}",
            f"{row['latency']:.1%}",
            f"{row['lowest']:.1%}, {row['highest']:.1%}",
            f"{row['latency'] / row['macs']:.2f}",
            f"{before:.3g} to {after:.3g}",
        ]
        yield f"| {' | '.join(cells)} |"
