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
Url = Annotated[str, typer.Option(help="The server.")]
Where = Annotated[str | None, typer.Option(help="The server [one of this machine, if there is one].")]
Key = Annotated[str | None, typer.Option(envvar="OMINIX_API_KEY", help="If the server asks for one.")]
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
    settings, _ = _read(models_file=models_file, port=port, host=host)
    from api.app import main

    raise typer.Exit(main(settings))


@app.command()
def worker(
    model: str,
    models_file: ModelsFile = None,
    redis: Annotated[
        str | None,
        typer.Option(help="The Redis of another host: rediss://user:password@host; better in REDIS_URL."),
    ] = None,
) -> None:
    """Run one worker for MODEL. Start several for more replicas."""
    if redis is not None:
        from cli import hiding

        hiding.hide("--redis", redis, "OMINIX_REDIS_URL")
    settings, manifest = _read(models_file=models_file)
    entry = manifest.resolve(model)
    from workers import ranks

    if not ranks.is_follower():  # those hear from rank 0 what to do
        _wait_for_redis(settings)
    from workers.serve import main

    raise typer.Exit(main(entry.id, settings, manifest))


@app.command()
def steward(models_file: ModelsFile = None) -> None:
    """Run the steward alone: it fetches and deletes models, and under `ominix serve` loads them."""
    settings, _ = _read(models_file=models_file)
    _wait_for_redis(settings)
    from workers.steward.serve import main

    raise typer.Exit(main(settings))


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
def list_models(models_file: ModelsFile = None, url: Where = None) -> None:
    """List the models: which are on this disk, and how many workers each has."""
    from cli import listing

    settings, manifest = _read(models_file=models_file)
    listing.print_models(settings, manifest, url)


@models.command()
def pull(
    repo: Annotated[str, typer.Argument(help="org/repo or org/repo@revision, of the Hugging Face hub.")],
    models_file: ModelsFile = None,
    url: Where = None,
    api_key: Key = None,
) -> None:
    """Fetch a model from the hub. Ctrl-C stops; the same command goes on with what has come."""
    from cli import pulling

    settings, manifest = _read(models_file=models_file)
    raise typer.Exit(pulling.pull(repo, settings, manifest, url, api_key))


@models.command()
def rm(model: str, models_file: ModelsFile = None, url: Where = None, api_key: Key = None) -> None:
    """Delete the files of MODEL, which nobody may be using."""
    from cli import removing

    settings, manifest = _read(models_file=models_file)
    print(f"{removing.remove(model, settings, manifest, url, api_key)}: deleted")


NoWait = Annotated[bool, typer.Option("--no-wait", help="Don't wait until it is done.")]
LOCAL = "http://127.0.0.1:8080"


@models.command()
def load(
    model: str,
    replicas: Annotated[int | None, typer.Option(min=1, help="How many workers [1, or as now].")] = None,
    url: Url = LOCAL,
    api_key: Key = None,
    no_wait: NoWait = False,
) -> None:
    """Load MODEL in a server that runs, or change how many workers it has."""
    from cli import fleet

    request = {"model": model} | ({"replicas": replicas} if replicas else {})
    raise typer.Exit(fleet.change("load", [request], url, api_key, not no_wait))


@models.command()
def unload(model: str, url: Url = LOCAL, api_key: Key = None, no_wait: NoWait = False) -> None:
    """Unload MODEL in a server that runs, when what it runs is done. Its files stay."""
    from cli import fleet

    raise typer.Exit(fleet.change("unload", [{"model": model}], url, api_key, not no_wait))


@models.command()
def scale(
    counts: Annotated[list[str], typer.Argument(help="MODEL=NUMBER, such as asr=3 chat=2.")],
    url: Url = LOCAL,
    api_key: Key = None,
    no_wait: NoWait = False,
) -> None:
    """Set how many workers models have in a server that runs."""
    from cli import fleet

    raise typer.Exit(fleet.change("load", fleet.parse(counts), url, api_key, not no_wait))


def _read(
    model: list[str] | None = None,
    models_file: str | None = None,
    port: int | None = None,
    host: str | None = None,
) -> "tuple[Settings, Manifest]":
    """Settings and manifest, with the options of the command line on top of the environment."""
    from shared.catalog import load
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
