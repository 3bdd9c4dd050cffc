"""The start page of `adapeff serve`: queue, running jobs with progress, sweeps; it refreshes itself."""

from __future__ import annotations

from pathlib import Path

from adapeff.cli.render.page.page import content_policy

_HERE = Path(__file__).parent


def live_page() -> str:
    """The page; its script asks the JSON API of the same server."""
    style = (_HERE.parent / "render" / "page" / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "live.js").read_text(encoding="utf-8")
    policy = f"{content_policy(style, script)}; connect-src 'self'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>adapeff</title>\n<style>{style}</style></head>\n<body><main>\n<h1>adapeff</h1>\n"
        '<p id="counts" role="status"></p>\n'
        '<h2>jobs</h2><div class="scroll"><table><thead><tr>'
        + "".join(
            f'<th class="text" scope="col">{name}</th>'
            for name in ("job", "state", "sweep", "what", "where", "progress", "")
        )
        + '</tr></thead><tbody id="jobs"></tbody></table></div>\n'
        '<h2>sweeps</h2><div class="scroll"><table><thead><tr>'
        + "".join(f'<th class="text" scope="col">{name}</th>' for name in ("sweep", "jobs", "last submitted (UTC)"))
        + '</tr></thead><tbody id="sweeps"></tbody></table></div>\n'
        f"</main>\n<script>{script}</script></body></html>\n"
    )
