"""Models to evaluate: a local folder or a hub id, resolved to local files and a digest that identifies them."""

import json
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

from dynclip.runtime import checkpoints
from dynclip.runtime.errors import UserError, rebuild_command
from dynclip.runtime.files import sha256
from dynclip.runtime.provenance import digest

# The files that change a model's samples: weights, architecture, tokenizer, chat template, end tokens.
SHAPING = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
FETCHED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
NOT_FETCHED = ("original/*", "consolidated*", "onnx/*")
HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Model:
    """`name`: what the user wrote. `digest`: identifies the model in a sample's address. `revision`: a hub commit."""

    name: str
    folder: Path
    digest: str
    sha256: str
    revision: str | None = None

    @cached_property
    def config(self) -> dict:
        config = json.loads((self.folder / "config.json").read_text())
        return config.get("text_config") or config

    @cached_property
    def chat_template(self) -> str | None:
        """The text of the chat template, None where the model has none."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text()
        settings = self.folder / "tokenizer_config.json"
        template = json.loads(settings.read_text()).get("chat_template") if settings.is_file() else None
        return template if isinstance(template, str) or template is None else json.dumps(template)

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and response together; None where the configuration does not say."""
        return self.config.get("max_position_embeddings")

    @cached_property
    def parameters(self) -> int:
        """The number of stored weights, read from the files' headers."""
        return sum(prod(shape) for file in weight_files(self.folder) for _, shape in _tensors(file))

    @cached_property
    def stored_float32(self) -> bool:
        return all(dtype == "F32" for file in weight_files(self.folder) for dtype, _ in _tensors(file))

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of one token's keys and values, at 2 bytes a number."""
        heads = self.config.get("num_attention_heads", 1)
        size = self.config.get("head_dim") or self.config.get("hidden_size", 1024) // heads
        return 4 * self.config.get("num_hidden_layers", 1) * (self.config.get("num_key_value_heads") or heads) * size


def resolve(name: str) -> Model:
    """The model of a folder or of a hub id (`owner/name` or `owner/name@revision`), downloaded where needed.

    Raises UserError, one line, for a folder that is no such model or is damaged, an unknown id, and a hub that cannot
    be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return local(folder, name)
    if name.startswith((".", "/", "~")) or folder.exists() or not HUB_ID.fullmatch(name):
        raise UserError(f"{name}: no such folder, and not a hub id (owner/name or owner/name@revision)")
    snapshot = _download(name)
    check_model(snapshot, name)
    identity = f"{HUB_ID.fullmatch(name)['id']}@{snapshot.name}"
    return Model(name, snapshot, digest(identity), weights_digest(snapshot), revision=snapshot.name)


def local(folder: Path, name: str | None = None) -> Model:
    """The model of a local folder. A published checkpoint is verified as by `published`."""
    if (folder / checkpoints.MANIFEST).is_file():
        return published(folder, name)
    check_model(folder, name or str(folder))
    sums = {file.name: sha256(file) for file in _shaping(folder)}
    return Model(name or str(folder), folder, digest(sums), weights_digest(folder, sums))


def published(folder: Path, name: str | None = None) -> Model:
    """The model of a checkpoint folder of a study, every file of which is compared with its checksum once.

    Raises UserError, with the command that makes it again, where the checkpoint is missing or damaged.
    """
    manifest = folder / checkpoints.MANIFEST
    checkpoints.verify(folder, rebuild_command("warmup" if folder.name == "base" else "train", manifest))
    check_model(folder, name or str(folder))
    recorded = json.loads(manifest.read_text())["files"]
    sums = {file.name: recorded[file.name]["sha256"] for file in _shaping(folder) if file.name in recorded}
    return Model(name or str(folder), folder, digest(sums), checkpoints.weights_sha256(folder))


def check_model(folder: Path, name: str) -> None:
    """Raise UserError unless `folder` holds a configuration, a tokenizer and safetensors weights that are whole."""
    try:
        json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{name}: no readable config.json; expected a model in Hugging Face format") from None
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").is_file():
        raise UserError(f"{name}: no tokenizer files; expected a model in Hugging Face format")
    files = weight_files(folder)
    if not files:
        raise UserError(f"{name}: no *.safetensors weights, and no other format is loaded (others can carry code)")
    for file in files:
        _tensors(file)


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def weights_digest(folder: Path, sums: dict[str, str] | None = None) -> str:
    """SHA-256 of the weights: the file's own, or of the list of several files' sums. Reads every byte once."""
    found = [(sums or {}).get(file.name) or sha256(file) for file in weight_files(folder)]
    return found[0] if len(found) == 1 else digest(found)


def _shaping(folder: Path) -> list[Path]:
    return sorted({file for pattern in SHAPING for file in folder.glob(pattern) if file.is_file()})


def _tensors(file: Path) -> list[tuple[str, list[int]]]:
    """(dtype, shape) of every tensor of a safetensors file. Raises UserError for a file that is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 (no mapping)
            return [(each.get_dtype(), each.get_shape()) for each in slices]
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: damaged ({error}); download or save the model again") from None


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    part = HUB_ID.fullmatch(name)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(
            snapshot_download(
                part["id"],
                revision=part["revision"],
                allow_patterns=list(FETCHED),
                ignore_patterns=list(NOT_FETCHED),
            )
        )
    except GatedRepoError:
        raise UserError(f"{name}: the hub asks for a login (HF_TOKEN) to this model") from None
    except RevisionNotFoundError:
        raise UserError(f"{name}: the hub at {constants.ENDPOINT} has no such revision of this model") from None
    except RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder here and no such model on the hub at {constants.ENDPOINT}") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(
                f"{name}: the hub at {constants.ENDPOINT} refuses ({status}); HF_TOKEN or the login is not valid "
                "there: set another one, or none"
            ) from None
        asked = "was not asked (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "did not answer"
        raise UserError(
            f"{name}: no such folder, not in the cache ({constants.HF_HUB_CACHE}), and the hub at {constants.ENDPOINT} "
            f"{asked}: {type(error).__name__}; set HF_ENDPOINT to a mirror, or give a local folder to --model"
        ) from None
