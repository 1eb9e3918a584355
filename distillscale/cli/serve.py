"""serve: the planner in a browser, for this machine unless told otherwise."""

from __future__ import annotations

import click

from ..errors import InputError
from .options import LAW, WHOLE

__all__ = ["serve"]


@click.command(
    epilog="\b\nExample:\n  distillscale serve --help\n  distillscale serve --port 0 --law busbridge2025-refit",
    short_help="The planner in a browser, on this machine.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=WHOLE(0, 65_535), default=8765, show_default=True, help="0 takes a free one.")
@click.option(
    "--law", type=LAW, default="busbridge2025", show_default=True, metavar="NAME_OR_FILE", help="Preselected."
)
@click.option("--allow-remote", is_flag=True, help="Let others in, with --token, where --host can be reached by them.")
@click.option(
    "--token",
    envvar="DISTILLSCALE_TOKEN",
    help="What a browser or program must know to be let in; also from $DISTILLSCALE_TOKEN.",
)
def serve(host: str, port: int, law: str, allow_remote: bool, token: str | None) -> None:
    """The planner as a local web page: drag, look, copy the command.

    Nobody but this machine can reach it unless --host, --allow-remote and --token say so together. Ctrl-C ends it.
    """
    from ..lawset import LawSet
    from ..published import load_set, names

    own: LawSet | None = None
    if law not in names():
        own = load_set(law)
    try:
        from ..web.app import Settings
        from ..web.serving import serve as serve_
    except ImportError as error:
        raise InputError(f"serve needs {error.name}, which is not installed; pip install 'distillscale[web]'") from None

    def announce(url: str) -> None:
        click.echo(f"The planner is at {url} (Ctrl-C ends it)")

    serve_(host, port, Settings(law=law, token=token), own, announce, allow_remote=allow_remote)
