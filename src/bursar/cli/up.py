"""``bursar up``: the gateway and the console on one port."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import msgspec

from bursar.cli.output import data_option

__all__ = ["up"]


@click.command()
@click.option("--host", help="Address to listen on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port (default 4000; 0 takes a free one).")
@click.option("--require-keys", is_flag=True, default=None, help="Accept only Bursar's virtual keys.")
@click.option("--config", type=click.Path(dir_okay=False, exists=True, path_type=Path), help="bursar.yaml to use.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
@data_option
def up(config: Path | None, log_level: str, data: Path | None, **flags: Any) -> None:
    """Run the gateway and the console until Ctrl-C.

    No configuration and no account are needed: point a client here and its calls are priced.

    \b
      export OPENAI_BASE_URL=http://localhost:4000/v1
      export ANTHROPIC_BASE_URL=http://localhost:4000
      export GOOGLE_GEMINI_BASE_URL=http://localhost:4000
    """
    from bursar.adapters.event_loop import run
    from bursar.compose import open_data, settings_of
    from bursar.server import Running, serve

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    where = open_data(data)
    settings = settings_of(where, config)
    given = {name: value for name, value in flags.items() if value is not None}
    settings = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, **given))

    def started(running: Running) -> None:
        click.echo(f"Bursar listens on {running.url}   (data: {where.path})")
        click.echo(f"  console      {running.url}/")
        click.echo(f"  OpenAI       export OPENAI_BASE_URL={running.url}/v1")
        click.echo(f"  Anthropic    export ANTHROPIC_BASE_URL={running.url}")
        click.echo(f"  Gemini       export GOOGLE_GEMINI_BASE_URL={running.url}")
        click.echo("Ctrl-C stops; running calls are finished and settled.")

    try:
        run(serve(where, settings, config=config, started=started))
    except OSError as error:
        raise click.ClickException(str(error.strerror or error)) from error
    click.echo("Stopped; every call is settled.")
