"""The commands of `ominix`. Each imports what it needs when it runs: help is quick, and the API's
process never loads MLX."""

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shared import __version__

if TYPE_CHECKING:
    from shared.manifest import Manifest
    from shared.settings import Settings

app = typer.Typer(
    help="OpenAI-compatible inference on Apple silicon.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help comes in half the time
)
models = typer.Typer(help="The models that OminiX knows.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")

Model = Annotated[
    list[str] | None, typer.Option(help="A model to serve as well: hf:org/repo. May be repeated.")
]
ModelsFile = Annotated[str | None, typer.Option(help="The list of models, in place of models.toml.")]
Port = Annotated[int | None, typer.Option(help="The port of the API [8080]; 0 takes a free one.")]
Host = Annotated[str | None, typer.Option(help="The address that the API listens on [127.0.0.1].")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"ominix {__version__}")
        raise typer.Exit


@app.callback()
def ominix(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """OpenAI-compatible inference on Apple silicon."""


@app.command()
def serve(
    model: Model = None, models_file: ModelsFile = None, port: Port = None, host: Host = None
) -> None:
    """Start everything: Redis, the API and a worker for each model."""
    from cli import serving

    settings, manifest = _read(model=model, models_file=models_file, port=port, host=host)
    raise typer.Exit(serving.serve(settings, manifest))


@app.command()
def redis() -> None:
    """Run the embedded Redis alone, in this process."""
    from shared.settings import read_settings
    from workers import embedded

    settings = read_settings()
    if settings.redis_url:
        print(f"Redis is the one at {embedded.where(settings)}: there is none to start.", file=sys.stderr)
        signal.pause()
    embedded.become_server(settings)


@app.command()
def api(models_file: ModelsFile = None, port: Port = None, host: Host = None) -> None:
    """Run the API alone."""
    settings, manifest = _read(models_file=models_file, port=port, host=host)
    from api.app import main

    raise typer.Exit(main(settings, manifest))


@app.command()
def worker(model: str, models_file: ModelsFile = None) -> None:
    """Run one worker for MODEL. Start several for more replicas."""
    settings, manifest = _read(models_file=models_file)
    entry = manifest.resolve(model)
    _wait_for_redis(settings)
    from workers.serve import main

    raise typer.Exit(main(entry.id, settings, manifest))


@app.command()
def reaper() -> None:
    """Settle the jobs of workers that died, where there is no `ominix serve` to do so."""
    settings, _ = _read()
    _wait_for_redis(settings)
    from workers.reaper import main

    raise typer.Exit(main(settings))


@app.command()
def transcribe(
    paths: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) and patterns.")],
    format: Annotated[
        Literal["txt", "srt", "vtt", "json", "verbose_json"], typer.Option(help="Of the results.")
    ] = "txt",
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="A folder for the results [beside the sources].")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Spoken in them, such as de [as heard].")] = None,
    model: Annotated[str | None, typer.Option(help="The model [the server's first that can].")] = None,
    prompt: Annotated[str | None, typer.Option(help="Names and words that will be heard.")] = None,
    words: Annotated[bool, typer.Option("--words", help="With the time of each word.")] = False,
    translate: Annotated[bool, typer.Option("--translate", help="Into English; NAME.en.txt.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what is done already.")] = False,
    url: Annotated[str, typer.Option(help="The server.")] = "http://127.0.0.1:8080",
    api_key: Annotated[
        str | None, typer.Option(envvar="OMINIX_API_KEY", help="If the server asks for one.")
    ] = None,
) -> None:
    """Transcribe recordings with a server that runs. What is done already is skipped."""
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter("must begin with http:// or https://", param_hint="--url")
    if words and format != "verbose_json":
        raise typer.BadParameter("needs --format verbose_json", param_hint="--words")
    from cli import transcribe as command

    options = command.Options(
        url=url,
        format=format,
        out=out,
        language=language,
        model=model,
        prompt=prompt,
        words=words,
        translate=translate,
        force=force,
        api_key=api_key,
    )
    raise typer.Exit(command.transcribe(paths, options))


@models.command("list")
def list_models(models_file: ModelsFile = None) -> None:
    """List the models, and which are on this disk."""
    from cli import listing

    settings, manifest = _read(models_file=models_file)
    listing.print_models(settings, manifest)


def _read(
    model: list[str] | None = None,
    models_file: str | None = None,
    port: int | None = None,
    host: str | None = None,
) -> "tuple[Settings, Manifest]":
    """Settings and manifest, with the options of the command line on top of the environment."""
    from shared.manifest import load
    from shared.settings import read_settings

    settings = read_settings(models_file=models_file, port=port, host=host)
    if model:
        import msgspec

        sources = ",".join(filter(None, [settings.extra_models, *model]))
        settings = msgspec.structs.replace(settings, extra_models=sources)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return settings, load(settings)


def _wait_for_redis(settings: "Settings") -> None:
    from workers import embedded, redis_state

    if not redis_state.wait_until_up(settings, patience=0.5):
        print(f"waiting for Redis at {embedded.where(settings)}", file=sys.stderr)
        redis_state.wait_until_up(settings)
