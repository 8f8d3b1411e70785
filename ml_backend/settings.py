"""Every setting, read once from the environment. All mistakes are reported at once, each with its fix."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from ml_backend.errors import ConfigError
from ml_backend.host_lists import HostList
from ml_backend.records import Selection

Parse = Callable[[str], Any]

APP = "label-studio-active-learning"


def default_data_dir() -> Path:
    """The platform's folder for a user's data: the same from whatever folder a command is run."""
    return Path(os.path.abspath(platformdirs.user_data_dir(APP, appauthor=False)))  # noqa: PTH100 - resolves no links


def _knob(env: str, default: Any, parse: Parse, doc: str) -> Any:
    metadata = {"env": env, "parse": parse, "doc": doc}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _number(kind: type[int | float], low: float, high: float = float("inf")) -> Parse:
    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
        if not low <= value <= high:
            upper = "" if high == float("inf") else f" and at most {high:g}"
            raise ValueError(f"must be at least {low:g}{upper}")
        return value

    return parse


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("must be an address such as http://localhost:8080")
    return text.rstrip("/")


def _keys(text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        url, separator, key = item.rpartition("=")
        if not separator or not key:
            raise ValueError("must have the form http://one.example=KEY,http://two.example=KEY")
        pairs.append((_url(url), key))
    return tuple(pairs)


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _hosts(text: str) -> tuple[str, ...]:
    """Names, `*.suffix`, addresses or networks, each with a port if need be."""
    HostList(found := _names(text))
    return found


def _choice(*names: str) -> Parse:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return parse


def _folder(text: str) -> Path:
    """Absolute, so that what is shown and handed on means the same everywhere; links stay as they are."""
    return Path(os.path.abspath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - a `~nobody` is left as it is


def _database(text: str) -> str:
    """A database URL; SQLite's with an absolute path."""
    scheme, path = text[: len("sqlite:///")], text[len("sqlite:///") :]
    return f"{scheme}{_folder(path)}" if scheme == "sqlite:///" and path not in {"", ":memory:"} else text


def _optional(parse: Parse) -> Parse:
    return lambda text: None if text.lower() in {"", "none"} else parse(text)


@dataclass(frozen=True)
class Settings:
    """What can be set, with its defaults. One environment variable a field; `NAME_FILE` reads it from a file."""

    label_studio_url: str = _knob(
        "LABEL_STUDIO_URL", "http://localhost:8080", _url, "Label Studio's address, as this service reaches it"
    )
    label_studio_api_key: str = _knob("LABEL_STUDIO_API_KEY", "", str, "its access token, personal or legacy")
    label_studio_api_keys: tuple[tuple[str, str], ...] = _knob(
        "LABEL_STUDIO_API_KEYS", (), _keys, "further Label Studio hosts: URL=KEY,URL=KEY"
    )
    media_root: Path | None = _knob(
        "LABEL_STUDIO_MEDIA_ROOT",
        None,
        _optional(Path),
        "Label Studio's media folder, if it is visible here: uploads are then read from disk",
    )
    document_root: Path | None = _knob(
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
        None,
        _optional(Path),
        "Label Studio's local-files folder, if it is visible here",
    )
    image_hosts: tuple[str, ...] = _knob(
        "ML_BACKEND_IMAGE_HOSTS",
        (),
        _hosts,
        "hosts besides Label Studio that images may be fetched from: images.example.org,*.example.org,minio:9000; private "
        "addresses only if they are listed, too: 10.0.0.0/8; *: every public host",
    )
    image_megapixels: int = _knob(
        "ML_BACKEND_IMAGE_MEGAPIXELS",
        80,
        _number(int, 1, 2000),
        "largest image, in megapixels; as many are decoded at a time, by all threads together",
    )
    data_dir: Path = _knob(
        "ML_BACKEND_DATA_DIR",
        default_data_dir,
        _folder,
        "folder for the state, image vectors and model versions; default: the user's data folder",
    )
    database_url: str = _knob(
        "ML_BACKEND_DATABASE_URL",
        "",
        _database,
        "keep the state in PostgreSQL instead of SQLite: postgresql+psycopg://user:password@host/name",
    )
    host: str = _knob("ML_BACKEND_HOST", "127.0.0.1", str, "address to listen on; 0.0.0.0 in a container")
    port: int = _knob("ML_BACKEND_PORT", 9090, _number(int, 1, 65535), "port to listen on")
    public_url: str = _knob(
        "ML_BACKEND_URL",
        "",
        _optional(_url),
        "this service's address, as Label Studio reaches it; default: http://localhost:<port>",
    )
    names: tuple[str, ...] = _knob(
        "ML_BACKEND_NAMES",
        (),
        _hosts,
        "further names that this service is called by, beside localhost and the host of ML_BACKEND_URL: "
        "backend.example.org,*.internal",
    )
    authentication: str = _knob(
        "ML_BACKEND_AUTHENTICATION",
        "own",
        _choice("own", "proxy"),
        "own: an address that others can reach needs a user and a password; proxy: a proxy in front asks for them",
    )
    body_mb: int = _knob(
        "ML_BACKEND_BODY_MB", 64, _number(int, 1, 4096), "largest body of a request, in MiB; a larger one gets 413"
    )
    user: str = _knob("ML_BACKEND_USER", "", str, "user name that Label Studio has to send; empty: no authentication")
    password: str = _knob("ML_BACKEND_PASSWORD", "", str, "password for that user")
    encoder: str = _knob(
        "ML_BACKEND_ENCODER",
        "auto",
        str,
        "auto, patches, a torchvision network, timm:<name>, a model file, or module:Class",
    )
    encoder_weights: str = _knob("ML_BACKEND_ENCODER_WEIGHTS", "", str, "file with weights for the encoder")
    allowed_encoders: tuple[str, ...] = _knob(
        "ML_BACKEND_ALLOWED_ENCODERS",
        (),
        _names,
        "further encoders that may run code of their own when a model is imported or loaded, separated by commas: "
        "module:Class, or the path of a .pt2 or .torchscript file",
    )
    strategy: str = _knob("ML_BACKEND_STRATEGY", "auto", str, "query strategy")
    batch_size: int = _knob("ML_BACKEND_BATCH_SIZE", 20, _number(int, 1, 100_000), "number of tasks in a batch")
    pool_size: int | None = _knob(
        "ML_BACKEND_POOL_SIZE", None, _optional(_number(int, 1)), "rank only a random sample of the pool, of this size"
    )
    power: float | None = _knob(
        "ML_BACKEND_POWER",
        None,
        _optional(_number(float, 0)),
        "draw tasks at random, weighted by acquisition ** POWER, instead of taking the highest: 0 draws evenly; "
        "larger values come closer to the plain ranking",
    )
    random_share: float = _knob(
        "ML_BACKEND_RANDOM_SHARE",
        0.0,
        _number(float, 0, 1),
        "share of each batch drawn at random, to compare the strategy with",
    )
    holdout_share: float = _knob(
        "ML_BACKEND_HOLDOUT_SHARE",
        0.1,
        _number(float, 0, 0.9),
        "share of labels held out to measure the accuracy, drawn at random before labelling",
    )
    holdout_first: int = _knob(
        "ML_BACKEND_HOLDOUT_FIRST", 20, _number(int, 0), "number of tasks held out at the start, at most a fifth of all"
    )
    prelabels: str = _knob(
        "ML_BACKEND_PRELABELS",
        "confident",
        _choice("never", "confident", "always"),
        "whether the model's guess is already ticked when an image opens; confident: only if such guesses are "
        "right 9 times in 10",
    )
    prediction_grace_seconds: float = _knob(
        "ML_BACKEND_PREDICTION_GRACE_SECONDS",
        604_800.0,
        _number(float, 0),
        "how long predictions of earlier queues stay in Label Studio; an image left open for longer cannot be "
        "submitted",
    )
    image_seconds: float = _knob(
        "ML_BACKEND_IMAGE_SECONDS",
        30.0,
        _number(float, 0.1),
        "longest time to fetch one image, in seconds; one that takes longer is tried again later",
    )
    train_after_labels: int = _knob(
        "ML_BACKEND_TRAIN_AFTER_LABELS", 10, _number(int, 1), "train after this many new labels"
    )
    train_after_seconds: float = _knob(
        "ML_BACKEND_TRAIN_AFTER_SECONDS", 30.0, _number(float, 0), "or after this many seconds without a new label"
    )
    poll_seconds: float = _knob(
        "ML_BACKEND_POLL_SECONDS",
        60.0,
        _number(float, 1),
        "seconds between checks for changes that no webhook reported",
    )
    full_sync_seconds: float = _knob(
        "ML_BACKEND_FULL_SYNC_SECONDS", 3600.0, _number(float, 0), "seconds between comparisons with the whole project"
    )
    conflicts: str = _knob(
        "ML_BACKEND_CONFLICTS",
        "majority",
        _choice("majority", "latest", "exclude"),
        "how several annotators' labels of one task become one: majority, latest (the one given last) or exclude",
    )
    mode: str = _knob(
        "ML_BACKEND_TRAINING",
        "head",
        _choice("head", "finetune"),
        "head: train a classifier on fixed vectors; finetune: train the whole network",
    )
    choices: str = _knob(
        "ML_BACKEND_CHOICES", "", str, "name of the <Choices> to learn, if the label config has several"
    )
    image: str = _knob(
        "ML_BACKEND_IMAGE", "", str, "name of the <Image> to learn from, if the label config has several"
    )
    seed: int = _knob("ML_BACKEND_SEED", 0, _number(int, 0), "seed for all random draws")
    promotion_alpha: float = _knob(
        "ML_BACKEND_PROMOTION_ALPHA",
        0.05,
        _number(float, 0, 1),
        "a new version is not served if it is worse at this significance level",
    )
    keep_versions: int = _knob(
        "ML_BACKEND_KEEP_VERSIONS",
        20,
        _number(int, 2),
        "number of model versions kept on disk, and as many (up to ten) that were good enough",
    )
    log_level: str = _knob(
        "ML_BACKEND_LOG_LEVEL", "INFO", _choice("DEBUG", "INFO", "WARNING", "ERROR"), "DEBUG, INFO, WARNING or ERROR"
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read every knob from `environ`. Raises ConfigError that lists all mistakes."""
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for knob in fields(cls):
            name = knob.metadata["env"]
            try:
                text = _lookup(name, environ)
                if text is not None:
                    values[knob.name] = knob.metadata["parse"](text)
            except (ValueError, OSError) as error:
                mistakes.append(f"{name} {error}")
        settings = cls(**values)
        mistakes += settings._contradictions()
        mistakes += _unknown(environ, {knob.metadata["env"] for knob in fields(cls)})
        if mistakes:
            raise ConfigError("Settings: " + "; ".join(mistakes))
        return settings

    def _contradictions(self) -> list[str]:
        found = []
        if bool(self.user) != bool(self.password):
            found.append("ML_BACKEND_USER and ML_BACKEND_PASSWORD belong together: set both or neither")
        return found

    @property
    def url(self) -> str:
        """This service's address as Label Studio sees it."""
        return self.public_url or f"http://localhost:{self.port}"

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'state.sqlite3'}"

    @property
    def selection(self) -> Selection:
        """What to learn in label configs that have several choices or images, where a project does not say."""
        return Selection(self.choices or None, self.image or None)

    @property
    def trusted_encoders(self) -> frozenset[str]:
        """Encoders that the operator named, which may therefore run code: classes by `module:Class`, files by path."""
        return frozenset({self.encoder, *self.allowed_encoders})

    def make_data_dir(self) -> None:
        """Make the data folder where it is missing. Raises ConfigError where that cannot be."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The data folder {self.data_dir} cannot be created ({error.strerror}): set ML_BACKEND_DATA_DIR to "
                "a folder you can write to."
            ) from error

    def hosts(self) -> dict[str, str]:
        """Every Label Studio host with its key."""
        return {self.label_studio_url: self.label_studio_api_key, **dict(self.label_studio_api_keys)}


def _lookup(name: str, environ: Mapping[str, str]) -> str | None:
    """What the environment says of a knob. An empty variable counts as not set: docker compose passes on what is missing."""
    path, text = environ.get(f"{name}_FILE"), environ.get(name) or None
    if path and text:
        raise ValueError(f"is set twice: unset {name} or {name}_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else text


def _unknown(environ: Mapping[str, str], known: set[str]) -> list[str]:
    """A misspelt knob is silently ignored otherwise."""
    names = {name.removesuffix("_FILE") for name in environ if name.startswith("ML_BACKEND_")}
    return [f"{name} is not a setting; see docs/settings.md" for name in sorted(names - known)]
