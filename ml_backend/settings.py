"""Every setting, read once from the environment. All mistakes are reported at once, each with its fix."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ml_backend.errors import ConfigError
from ml_backend.host_lists import HostList
from ml_backend.records import Selection

APP = "label-studio-active-learning"
NETWORK = r"^@register_model\(\)\n(?:@.*\n)*def %s\("
"""How torchvision's files declare a network. To import them and ask would take seconds."""


def default_data_dir() -> Path:
    """The platform's folder for a user's data: the same from whatever folder a command is run."""
    return Path(platformdirs.user_data_dir(APP, appauthor=False))


def _read(parse: Callable[[str], Any]) -> BeforeValidator:
    return BeforeValidator(lambda given: parse(given) if isinstance(given, str) else given)


def _unset(text: str) -> str | None:
    return None if text.lower() in {"", "none"} else text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError("must be an address such as http://localhost:8080")
    return text.rstrip("/")


def _keys(text: str) -> list[tuple[str, str]]:
    pairs = [item.rpartition("=")[::2] for item in _names(text)]
    if not all(url and key for url, key in pairs):
        raise ValueError("must have the form http://one.example=KEY,http://two.example=KEY")
    return [(_url(url), key) for url, key in pairs]


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names, `*.suffix`, addresses or networks, each with a port if need be."""
    HostList(names)
    return names


def _folder(path: Path) -> Path:
    """Absolute, so that what is shown and handed on means the same everywhere; links stay as they are."""
    return Path(os.path.abspath(os.path.expanduser(path)))  # noqa: PTH100, PTH111 - a `~nobody` is left as it is


def _database(url: str) -> str:
    """A database URL; SQLite's with an absolute path."""
    if not re.match(r"$|sqlite(\+\w+)?://|postgres://|postgresql(\+\w+)?://", url):
        raise ValueError("must be postgresql+psycopg://user:password@host/name or sqlite:///path")
    scheme, path = url[: len("sqlite:///")], url[len("sqlite:///") :]
    return f"{scheme}{_folder(Path(path))}" if scheme == "sqlite:///" and path not in {"", ":memory:"} else url


def _encoder(name: str) -> str:
    known = name in {"auto", "patches"} or ":" in name or name.endswith((".pt2", ".onnx", ".torchscript", ".ts"))
    if not (known or _is_network(re.split("[@?]", name)[0])):
        raise ValueError(
            "must be auto, patches, a torchvision network, timm:<name>, open_clip:<name>, a model file, or module:Class"
        )
    return name


def strategy_names() -> list[str]:
    """The registry's names, read from its source: to import it takes seconds."""
    source = Path(__file__).with_name("strategies").joinpath("registry.py").read_text(encoding="utf-8")
    return re.findall(r'^    "(\w+)": ', source, re.MULTILINE)


def _strategy(name: str) -> str:
    if name not in (known := strategy_names()):
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


def _is_network(name: str) -> bool:
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    declared = re.compile(NETWORK % re.escape(name), re.MULTILINE)
    files = (file for folder in folders or () for file in Path(folder, "models").glob("*.py"))
    return any(declared.search(file.read_text(encoding="utf-8")) for file in files)


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError("must be auto, cpu, cuda, cuda:1 (the second GPU) or mps")
    return name


def _with_user(password: str, others: ValidationInfo) -> str:
    if bool(password) != bool(others.data.get("user")):
        raise ValueError("and ML_BACKEND_USER belong together: set both or neither")
    return password


OTHERWISE_NAMED = {
    "label_studio_url": "LABEL_STUDIO_URL",
    "label_studio_api_key": "LABEL_STUDIO_API_KEY",
    "label_studio_api_keys": "LABEL_STUDIO_API_KEYS",
    "media_root": "LABEL_STUDIO_MEDIA_ROOT",
    "document_root": "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
    "public_url": "ML_BACKEND_URL",
    "mode": "ML_BACKEND_TRAINING",
}
"""Fields whose variable is not `ML_BACKEND_` and the field's name."""

Secret = Annotated[str, Field(repr=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Unset = _read(_unset)
Names = Annotated[tuple[str, ...], _read(_names)]
Hosts = Annotated[Names, AfterValidator(_hosts)]


class Settings(BaseSettings):
    """What can be set, with its defaults. One environment variable a field; `NAME_FILE` reads it from a file."""

    model_config = SettingsConfigDict(frozen=True, hide_input_in_errors=True)

    label_studio_url: Annotated[str, AfterValidator(_url)] = "http://localhost:8080"
    """Label Studio's address, as this service reaches it"""
    label_studio_api_key: Secret = ""
    """its access token, personal or legacy"""
    label_studio_api_keys: Annotated[tuple[tuple[str, str], ...], _read(_keys), Field(repr=False)] = ()
    """further Label Studio hosts: URL=KEY,URL=KEY"""
    media_root: Annotated[Path | None, Unset] = None
    """Label Studio's media folder, if it is visible here: uploads are then read from disk"""
    document_root: Annotated[Path | None, Unset] = None
    """Label Studio's local-files folder, if it is visible here"""
    image_hosts: Hosts = ()
    """hosts besides Label Studio that images may be fetched from: images.example.org,*.example.org,minio:9000; private addresses only if they are listed, too: 10.0.0.0/8; *: every public host"""
    image_megapixels: Annotated[int, Field(ge=1, le=2000)] = 80
    """largest image, in megapixels; as many are decoded at a time, by all threads together"""
    data_dir: Annotated[Path, AfterValidator(_folder)] = Field(default_factory=default_data_dir)
    """folder for the state, image vectors and model versions; default: the user's data folder"""
    database_url: Annotated[Secret, AfterValidator(_database)] = ""
    """keep the state in PostgreSQL instead of SQLite: postgresql+psycopg://user:password@host/name"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 in a container"""
    port: Annotated[int, Field(ge=1, le=65535)] = 9090
    """port to listen on"""
    public_url: Annotated[str, _read(lambda text: _url(text) if _unset(text) else "")] = ""
    """this service's address, as Label Studio reaches it; default: http://localhost:<port>"""
    names: Hosts = ()
    """further names that this service is called by, beside localhost and the host of ML_BACKEND_URL: backend.example.org,*.internal"""
    authentication: Literal["own", "proxy"] = "own"
    """own: an address that others can reach needs a user and a password; proxy: a proxy in front asks for them"""
    body_mb: Annotated[int, Field(ge=1, le=4096)] = 64
    """largest body of a request, in MiB; a larger one gets 413"""
    user: str = ""
    """user name that Label Studio has to send; empty: no authentication"""
    password: Annotated[Secret, AfterValidator(_with_user)] = ""
    """password for that user"""
    encoder: Annotated[str, AfterValidator(_encoder)] = "auto"
    """auto, patches, a torchvision network, timm:<name>, open_clip:<name>, a model file, or module:Class"""
    encoder_weights: str = ""
    """file with weights for the encoder"""
    downloads: Literal["yes", "no"] = "yes"
    """whether an encoder's published weights may be downloaded where they are not in the cache; no: `auto` takes what is in the cache, or `patches`"""
    fit: Literal["auto", "crop", "letterbox", "squash"] = "auto"
    """what of an image the encoder sees: crop (the middle), letterbox (all of it, with a border), squash (all of it, out of shape); auto: as its network was trained"""
    allowed_encoders: Names = ()
    """further encoders that may run code of their own when a model is imported or loaded, separated by commas: module:Class, or the path of a .pt2 or .torchscript file"""
    start_from_names: Literal["yes", "no"] = "yes"
    """whether an encoder that reads text guesses from the class names and their hints before there are labels; labels correct it"""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """where networks compute: auto (an NVIDIA GPU where there is one), cpu, cuda, cuda:1 (the second GPU) or mps (Apple's)"""
    threads: Annotated[int | None, Field(ge=1, le=1024), Unset] = None
    """threads that compute; default: as many as this service may use processors, and one fewer where models are trained"""
    strategy: Annotated[str, AfterValidator(_strategy)] = "auto"
    """query strategy"""
    batch_size: Annotated[int, Field(ge=1, le=100_000)] = 20
    """number of tasks in a batch"""
    pool_size: Annotated[int | None, Field(ge=1), Unset] = None
    """rank only a random sample of the pool, of this size"""
    power: Annotated[float | None, Field(gt=0), Unset] = None
    """draw tasks at random, weighted by acquisition ** POWER, instead of taking the highest: near 0 evenly; larger values come closer to the plain ranking"""
    random_share: Share = 0.0
    """share of each batch drawn at random, to compare the strategy with"""
    holdout_share: Annotated[float, Field(ge=0, le=0.9)] = 0.1
    """share of labels held out to measure the accuracy, drawn at random before labelling"""
    holdout_first: Annotated[int, Field(ge=0)] = 20
    """number of tasks held out at the start, at most a fifth of all"""
    prelabels: Literal["never", "confident", "always"] = "confident"
    """whether the model's guess is already ticked when an image opens; confident: only if such guesses are right 9 times in 10"""
    prediction_grace_seconds: Annotated[float, Field(ge=0)] = 604_800.0
    """how long predictions of earlier queues stay in Label Studio; an image left open for longer cannot be submitted"""
    image_seconds: Annotated[float, Field(ge=0.1)] = 30.0
    """longest time to fetch one image, in seconds; one that takes longer is tried again later"""
    train_after_labels: Annotated[int, Field(ge=1)] = 10
    """train after this many new labels"""
    train_after_seconds: Annotated[float, Field(ge=0)] = 30.0
    """or after this many seconds without a new label"""
    poll_seconds: Annotated[float, Field(ge=1)] = 60.0
    """seconds between checks for changes that no webhook reported"""
    full_sync_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """seconds between comparisons with the whole project"""
    conflicts: Literal["majority", "latest", "exclude"] = "majority"
    """how several annotators' labels of one task become one: majority, latest (the one given last) or exclude"""
    mode: Literal["head", "finetune"] = "head"
    """head: train a classifier on fixed vectors; finetune: train the network, too, and serve it where that is better"""
    finetune_part: Literal["all", "last", "lora"] = "all"
    """what is trained of the network: all; last: its last two blocks; lora: low-rank adapters in its attention (ViTs), merged at the end"""
    lora_rank: Annotated[int, Field(ge=1, le=256)] = 8
    """rank of these adapters"""
    finetune_cache_gb: Annotated[int, Field(ge=0)] = 20
    """disk space for the pictures that a network is trained on, in GB (150 kB each at 224 pixels), half of what is free at most; those beyond it are decoded anew in each epoch"""
    choices: str = ""
    """name of the <Choices> to learn, if the label config has several"""
    image: str = ""
    """name of the <Image> to learn from, if the label config has several"""
    seed: Annotated[int, Field(ge=0)] = 0
    """seed for all random draws"""
    promotion_alpha: Share = 0.05
    """a new version is not served if it is worse at this significance level"""
    keep_versions: Annotated[int, Field(ge=2)] = 20
    """number of model versions kept on disk, and as many (up to ten) that were good enough"""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR"""

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is handed over: `Settings()` gives the defaults, whatever the environment says."""
        return (sources["init_settings"],)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """The environment variable of each field."""
        return {field: OTHERWISE_NAMED.get(field, f"ML_BACKEND_{field.upper()}") for field in cls.model_fields}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Read every setting from `environ`. Raises ConfigError that lists all mistakes."""
        given: dict[str, Any] = {}
        mistakes: list[str] = []
        for field, name in (variables := cls.variables()).items():
            try:
                if (text := _lookup(name, environ)) is not None:
                    given[field] = text
            except (ValueError, OSError) as error:
                mistakes.append(f"{name} {error}")
        try:
            settings = cls(**given)
        except ValidationError as found:
            mistakes += [f"{variables[str(error['loc'][0])]} {_sentence(error['msg'])}" for error in found.errors()]
        mistakes += _unknown(environ, set(variables.values()))
        if mistakes:
            raise ConfigError("Settings: " + "; ".join(mistakes))
        return settings

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
    """What the environment says of a setting. An empty variable counts as not set: docker compose passes on what is missing."""
    path, text = environ.get(f"{name}_FILE"), environ.get(name) or None
    if path and text:
        raise ValueError(f"is set twice: unset {name} or {name}_FILE")
    return Path(path).read_text(encoding="utf-8").strip() if path else text


def _unknown(environ: Mapping[str, str], known: set[str]) -> list[str]:
    """A misspelt one is silently ignored otherwise."""
    names = {name.removesuffix("_FILE") for name in environ if name.startswith("ML_BACKEND_")} - known
    meant = {name: "".join(f" (did you mean {near}?)" for near in get_close_matches(name, known, 1)) for name in names}
    return [f"{name} is not a setting{meant[name]}; see docs/settings.md" for name in sorted(names)]


def _sentence(message: str) -> str:
    """What goes on after a name: of `Input should be greater than or equal to 1`, or of what our own checks raised."""
    return message.removeprefix("Value error, ").replace("Input should", "must").partition(", unable to parse")[0]
