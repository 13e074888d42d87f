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
from dynclip.runtime.hub import hub_problem, telling_of_locks
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
ADAPTER = "adapter_config.json"
NOT_CAUSAL = ("ForMaskedLM", "ForPreTraining", "Classification", "ForQuestionAnswering")
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
        config = read_object(self.folder / "config.json")
        return config["text_config"] if isinstance(config.get("text_config"), dict) else config

    @cached_property
    def chat_template(self) -> str | None:
        """The text of the chat template, None where the model has none."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return read_text(file)
        settings = self.folder / "tokenizer_config.json"
        template = read_object(settings).get("chat_template") if settings.is_file() else None
        return template if isinstance(template, str) or template is None else json.dumps(template)

    @property
    def context(self) -> int | None:
        """The longest sequence, prompt and response together; None where the configuration does not say."""
        return self._number("max_position_embeddings", "n_positions")

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
        # The second names are GPT-2's.
        heads = self._number("num_attention_heads", "n_head") or 1
        size = self._number("head_dim") or (self._number("hidden_size", "n_embd") or 1024) // heads
        layers = self._number("num_hidden_layers", "n_layer") or 1
        return 4 * layers * (self._number("num_key_value_heads") or heads) * size

    def _number(self, *names: str) -> int | None:
        """A number of the configuration under the first of the names that it has; None where it has none.

        What is wrong with a number, the engine says.
        """
        numbers = (self.config.get(name) for name in names)
        return next((value for value in numbers if isinstance(value, int) and value > 0), None)


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
    if (folder / ADAPTER).is_file():
        base = read_object(folder / ADAPTER).get("base_model_name_or_path")
        raise UserError(
            f"{name}: an adapter ({ADAPTER}) of the model {base}; merge the two (merge_and_unload of peft), save the "
            "result and give that folder"
        )
    if not (folder / "config.json").is_file():
        served = "; a server can run the GGUF file: --endpoint" if any(folder.glob("*.gguf")) else ""
        raise UserError(f"{name}: no readable config.json; expected a model in Hugging Face format{served}")
    for file in (file for file in _shaping(folder) if file.suffix == ".json" and file.name != "tokenizer.json"):
        read_object(file)
    kinds = read_object(folder / "config.json").get("architectures")
    if isinstance(kinds, list) and any(str(kind).endswith(NOT_CAUSAL) for kind in kinds):
        raise UserError(f"{name}: its config.json says {kinds[0]}; expected a causal language model")
    if not any(folder.glob("tokenizer*")) and not (folder / "vocab.json").is_file():
        raise UserError(f"{name}: no tokenizer files; expected a model in Hugging Face format")
    files = weight_files(folder)
    if not files:
        raise UserError(f"{name}: no *.safetensors weights, and no other format is loaded (others can carry code)")
    for file in files:
        _tensors(file)
    index = folder / "model.safetensors.index.json"
    named = read_object(index).get("weight_map") if index.is_file() else {}
    if not isinstance(named, dict):
        raise UserError(f"{index}: damaged (no weight_map); download or save the model again")
    absent = sorted({str(file) for file in named.values()} - {file.name for file in files})
    if absent:
        raise UserError(f"{name}: {absent[0]} is missing, which {index.name} names; download or save the model again")


def read_text(file: Path) -> str:
    """The text of a model's file. Raises UserError where it is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file}: damaged (no UTF-8 text); download or save the model again") from None


def read_object(file: Path) -> dict:
    """The JSON object in a model's file. Raises UserError where it holds none."""
    try:
        found = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{file}: damaged ({error}); download or save the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: damaged (no JSON object); download or save the model again")
    return found


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

    # An unreadable file raises the system's own error here; safetensors would say that there is no such file.
    file.open("rb").close()
    try:
        with safe_open(file, framework="numpy") as tensors:
            slices = [tensors.get_slice(name) for name in tensors.keys()]  # noqa: SIM118 (no mapping)
            return [(each.get_dtype(), each.get_shape()) for each in slices]
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: damaged ({error}); download or save the model again") from None


def _download(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    part = HUB_ID.fullmatch(name)
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        with telling_of_locks():
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
    except Exception as error:  # whatever the client makes of a hub, a proxy or a network
        said = "was not asked (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else hub_problem(error)
        raise UserError(
            f"{name}: no such folder, not in the cache ({constants.HF_HUB_CACHE}), and the hub at {constants.ENDPOINT} "
            f"{said}; set HF_ENDPOINT to a mirror, or give a local folder to --model"
        ) from None
