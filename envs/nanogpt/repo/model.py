"""A small GPT: what it computes, and how a checkpoint becomes a function from tokens to logits.

Shapes: B rows, T tokens a row, C = N_EMBD channels, H = N_HEAD heads, V = VOCAB_SIZE.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCAB_SIZE = 1024  # set by the tokenizer of this environment
N_LAYER = 4
N_HEAD = 4
N_EMBD = 64
MLP_RATIO = 4  # hidden width of the MLP, in units of N_EMBD
DROPOUT = 0.0
INIT_STD = 0.02


def make_norm() -> nn.Module:
    """The normalisation in front of each sub-layer and of the output."""
    return nn.LayerNorm(N_EMBD)


def activation(x: Tensor) -> Tensor:
    """The non-linearity inside the MLP."""
    return F.gelu(x)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(N_EMBD, 3 * N_EMBD, bias=False)
        self.proj = nn.Linear(N_EMBD, N_EMBD, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, N_HEAD, C // N_HEAD).permute(2, 0, 3, 1, 4)  # each (B, H, T, C/H)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, C/H)
        return self.proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Two linear layers with a non-linearity between them, applied to each position alone."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(N_EMBD, MLP_RATIO * N_EMBD, bias=False)
        self.down = nn.Linear(MLP_RATIO * N_EMBD, N_EMBD, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(activation(self.up(x)))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = make_norm()
        self.attention = Attention()
        self.mlp_norm = make_norm()
        self.mlp = MLP()
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """Token ids (B, T) to logits (B, T, V); the output layer shares its weights with the token embedding."""

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size
        self.token_embedding = nn.Embedding(VOCAB_SIZE, N_EMBD)
        self.position_embedding = nn.Embedding(block_size, N_EMBD)
        self.blocks = nn.ModuleList(Block() for _ in range(N_LAYER))
        self.final_norm = make_norm()
        self.init_weights()

    def init_weights(self) -> None:
        """Normal weights; those that write to the residual stream are smaller, so that it does not grow with depth."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms keep their ones and zeros
            writes_residual = name.endswith(("proj.weight", "down.weight"))
            std = INIT_STD / math.sqrt(2 * N_LAYER) if writes_residual else INIT_STD
            nn.init.normal_(parameter, mean=0.0, std=std)

    def forward(self, idx: Tensor) -> Tensor:
        positions = torch.arange(idx.shape[1], device=idx.device)  # (T,)
        x = self.token_embedding(idx) + self.position_embedding(positions)  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x) @ self.token_embedding.weight.T  # (B, T, V)


def save(model: GPT, path: str) -> None:
    """Write what ``load`` needs: the weights and the longest context."""
    torch.save({"block_size": model.block_size, "weights": model.state_dict()}, path)


def load(path: str) -> Callable[[Tensor], Tensor]:
    """Return f(idx int64[B, T]) -> logits float[B, T, V] of the checkpoint at ``path``.

    The evaluator calls this: f must be a pure function, causal within a row and independent between rows. Where there
    is a GPU, f is called with tokens on it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = torch.load(path, map_location=device, weights_only=True)
    model = GPT(checkpoint["block_size"]).to(device)
    model.load_state_dict(checkpoint["weights"])
    return model.eval()
