"""An encoder with a head, for training: which layers learn, and what the frozen ones need to do only once."""

import re
from collections.abc import Mapping

import timm
import torch
from torch import nn

from engine.compute.encoder import build_encoder
from schemas.errors import ConfigError

ALL, TOP, HEAD_ONLY = "all", "top", "head"

_BLOCK = re.compile(r"(?:blocks|stages|layers)\.\d+|layer\d+")
"""How timm names the blocks of its networks, in order."""


class Network(nn.Module):
    """Views to raw outputs: encoder, dropout, head."""

    def __init__(self, encoder: nn.Module, head: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.dropout, self.head = encoder, nn.Dropout(dropout), head
        self.norms_learn = True

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """(n, bands, side, side) to (n, outputs)."""
        return self.head(self.dropout(self.encoder(views)))

    def train(self, mode: bool = True) -> "Network":
        """Batch normalisation keeps its statistics unless it learns."""
        super().train(mode)
        if not self.norms_learn:
            for module in norms(self.encoder):
                module.eval()
        return self


def new_encoder(architecture: str, n_bands: int, seed: int) -> nn.Module:
    """Make an encoder with seeded random weights, to train from scratch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(architecture, pretrained=False, num_classes=0, in_chans=n_bands)


def trainable_encoder(architecture: str, n_bands: int, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Build an encoder that can learn, from tensors that `encoder_tensors` has fitted."""
    return build_encoder(architecture, n_bands, tensors).requires_grad_(True)


def norms(module: nn.Module) -> list[nn.Module]:
    """Batch normalisations of a network."""
    return [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


def depths(encoder: nn.Module) -> list[str]:
    """Names of the depths that an encoder can be unfrozen to: head, top, block numbers from the last to 1, all."""
    return [HEAD_ONLY, TOP, *(str(number) for number in range(len(_groups(encoder)) - 2, 0, -1)), ALL]


def check_depth(architecture: str, depth: str) -> None:
    """Refuse a depth that an architecture does not have, with a ConfigError."""
    known = depths(new_encoder(architecture, 1, 0))
    if depth not in known:
        raise ConfigError(f"depth: expected one of {', '.join(known)} for {architecture}, found {depth!r}")


def unfreeze(network: Network, depth: str) -> None:
    """Let the head and the layers above a depth learn, and no batch normalisation (Walmsley et al. 2022, Section 6).

    Parameters
    ----------
    network : Network
    depth : str
        head: none of the encoder; top: the last convolution; a number: its block (from 1) and those after it; all.

    Raises
    ------
    ConfigError
        The encoder has no such depth.
    """
    known = depths(network.encoder)
    if depth not in known:
        raise ConfigError(f"depth: expected one of {', '.join(known)}, found {depth!r}")
    groups = _groups(network.encoder)
    last = len(groups) - 1
    first = {HEAD_ONLY: last + 1, TOP: last, ALL: 0}.get(depth) if depth in (HEAD_ONLY, TOP, ALL) else int(depth)
    learning = {name for group in groups[first:] for name in group}
    for name, parameter in network.encoder.named_parameters():
        parameter.requires_grad_(name in learning)
    for module in norms(network.encoder):
        module.requires_grad_(False)
    network.norms_learn = False


def cut(encoder: nn.Module, depth: str) -> tuple[nn.Module, nn.Module] | None:
    """Split an encoder where it begins to learn: what is frozen, whose answers can be kept, and the rest.

    Returns None where nothing is frozen, or the encoder is no chain of blocks as timm's EfficientNets are.
    """
    chain = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool")
    if depth == ALL or not all(hasattr(encoder, name) for name in chain):
        return None
    blocks = list(encoder.blocks)  # type: ignore[arg-type]
    start = len(blocks) if depth in (TOP, HEAD_ONLY) else int(depth) - 1
    frozen = nn.Sequential(encoder.conv_stem, encoder.bn1, *blocks[:start])  # type: ignore[arg-type]
    rest = nn.Sequential(*blocks[start:], encoder.conv_head, encoder.bn2, encoder.global_pool)  # type: ignore[arg-type]
    return frozen, rest


def layer_rates(network: Network, rate: float, decay: float) -> list[dict[str, object]]:
    """Parameter groups whose rate falls by `decay` from each group of layers to the one before; the head has `rate`."""
    groups = _groups(network.encoder)
    own = dict(network.encoder.named_parameters())
    made: list[dict[str, object]] = [{"params": list(network.head.parameters()), "lr": rate}]
    for steps, group in enumerate(reversed(groups), start=1):
        learning = [own[name] for name in group if own[name].requires_grad]
        if learning:
            made.append({"params": learning, "lr": rate * decay**steps})
    return made


def _groups(encoder: nn.Module) -> list[list[str]]:
    """Names of parameters from the input to the output: stem, every block, top; the last may be empty."""
    stem: list[str] = []
    top: list[str] = []
    blocks: dict[str, list[str]] = {}
    for name, _ in encoder.named_parameters():
        block = _BLOCK.match(name)
        group = blocks.setdefault(block[0], []) if block else top if blocks else stem
        group.append(name)
    return [stem, *blocks.values(), top]
