"""page.py FOLDER: write FOLDER/index.html from results.tsv, about.txt and the outputs of checks."""

import html
import sys
from pathlib import Path

folder = Path(sys.argv[1])
rows, outputs = [], []
for line in (folder / "results.tsv").read_text().splitlines():
    check, passed, seconds, last = line.split("\t", 3)
    text = html.escape((folder / f"{check}.txt").read_text(errors="replace"))
    rows.append(
        f'<tr class="{passed}"><td><a href="#{check}">{check}</a></td><td>{passed}</td>'
        f"<td>{seconds} s</td><td>{html.escape(last)}</td></tr>"
    )
    outputs.append(f'<h2 id="{check}">{check}</h2>\n<pre>{text}</pre>')
(folder / "index.html").write_text(
    '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>hpcsamp: acceptance</title>\n'
    "<style>body{font-family:sans-serif;margin:2em}td{padding:.2em 1em}.fail{color:#b00}"
    "pre{overflow-x:auto}</style>\n<h1>Acceptance</h1>\n"
    f"<pre>{html.escape((folder / 'about.txt').read_text(errors='replace'))}</pre>\n<table>\n"
    + "\n".join(
        ["<tr><th>check</th><th>result</th><th>time</th><th>last line, or error</th></tr>", *rows]
    )
    + "\n</table>\n"
    + "\n".join(outputs)
    + "\n</html>\n"
)
