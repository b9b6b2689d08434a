"""Flow-Attention and Mobile-Attention in plain PyTorch, computed in float32 (float64 for float64).

Sources: Flowformer (Wu et al., ICML 2022, arXiv:2202.06258), Mobile-Attention (Yao et al., ICML 2024), and the
released code of both.
"""

# No `from __future__ import annotations` here: TorchScript reads the annotations.
import torch
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _dot(x: Tensor, y: Tensor, eps: float) -> Tensor:
    """`[..., N, d]` with `[..., N or 1, d]` to `[..., N, 1]`; every factor is raised by eps."""
    return ((x + eps) * (y + eps)).sum(-1, keepdim=True)


def flow_attention(query: Tensor, key: Tensor, value: Tensor, eps: float, flow_eps: float, clamp: bool) -> Tensor:
    """The definition of `visionattn.ops.flow_attention`."""
    q, k, v = torch.sigmoid(_wide(query)), torch.sigmoid(_wide(key)), _wide(value)
    tokens, sources = q.shape[-2], k.shape[-2]
    incoming = 1 / (_dot(q, k.sum(-2, keepdim=True), eps) + flow_eps)
    outgoing = 1 / (_dot(k, q.sum(-2, keepdim=True), eps) + flow_eps)
    sink = _dot(q, (k * outgoing).sum(-2, keepdim=True), eps) + flow_eps
    source = _dot(k, (q * incoming).sum(-2, keepdim=True), eps) + flow_eps
    if clamp:
        source = source.clamp(-1.0, 1.0)
    allocation = torch.sigmoid(sink * (float(tokens) / float(sources)))
    competition = torch.softmax(source, dim=-2) * float(sources)
    state = k.transpose(-2, -1) @ (v * competition)
    return ((q @ state) * incoming * allocation).to(query.dtype)


def causal_flow_attention(query: Tensor, key: Tensor, value: Tensor, eps: float, clamp: bool) -> Tensor:
    """The definition of `visionattn.ops.causal_flow_attention`."""
    q, k, v = torch.sigmoid(_wide(query)), torch.sigmoid(_wide(key)), _wide(value)
    count = torch.arange(1, q.shape[-2] + 1, device=q.device, dtype=q.dtype).unsqueeze(-1)
    incoming = count / _dot(q, k.cumsum(-2), eps)
    outgoing = count / _dot(k, q.cumsum(-2), eps)
    sink = _dot(q, (k * outgoing).cumsum(-2), eps) / count
    source = _dot(k, (q * incoming).cumsum(-2), eps) / count
    if clamp:
        source = source.clamp(-1.0, 1.0)
    weights = source.exp()
    competition = weights / weights.cumsum(-2) * count
    scores = ((q * incoming / count) @ k.transpose(-2, -1)).tril()
    return ((scores @ (v * competition)) * torch.sigmoid(sink)).to(query.dtype)


def mobile_attention(query: Tensor, key: Tensor, value: Tensor, eps: float, clamp: bool) -> Tensor:
    """The definition of `visionattn.ops.mobile_attention`."""
    q, k, v = torch.sigmoid(_wide(query)), torch.sigmoid(_wide(key)), _wide(value)
    incoming = 1 / _dot(q, k.sum(1, keepdim=True), eps)
    outgoing = 1 / _dot(k, q.sum(1, keepdim=True), eps)
    sink = _dot(q, (k * outgoing).sum(1, keepdim=True), eps)
    source = _dot(k, (q * incoming).sum(1, keepdim=True), eps)
    if clamp:
        source = source.clamp(-1.0, 1.0)
    competition = torch.softmax(source, dim=-2) * float(k.shape[-2])
    state = k.transpose(-2, -1) @ (v * competition)
    return ((q @ state) * incoming * torch.sigmoid(sink)).to(query.dtype)
