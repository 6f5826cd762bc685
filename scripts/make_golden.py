#!/usr/bin/env python3
"""Writes tests/golden/*.safetensors: tiny models computed in float64 by PyTorch's autograd, stored as float32.

Each file holds the configuration (metadata "config"), every weight by its name in checkpoints, inputs, targets, positions
(and segment_start), and what a pass must give: loss (mean over scored targets), logits, hidden.I after every layer and
grad.NAME of the loss. Written from the equations alone, with plain tensor functions. Runs with torch >= 1.13:

    python3 scripts/make_golden.py tests/golden
"""
import json
import math
import os
import random
import struct
import sys

import torch

BATCH, TIME = 2, 7
BASE = {"vocab_size": 23, "vocab_multiple": 8, "context": 9, "layers": 2, "d_model": 12}
CASES = {
    "gpt_learned": {"backbone": "gpt", "heads": 3, "ffn": {"type": "dense", "d_ff": 20, "activation": "gelu"}},
    "gpt_sinusoidal_relu": {"backbone": "gpt", "heads": 2, "positions": "sinusoidal",
                            "ffn": {"type": "dense", "d_ff": 20, "activation": "relu"}},
    "gpt_untied_documents": {"backbone": "gpt", "heads": 2, "tie_embeddings": False, "bias": {"output": True},
                             "ffn": {"type": "dense", "d_ff": 20, "activation": "gelu_erf"}},
    "llama_grouped": {"backbone": "llama", "heads": 4, "kv_heads": 2, "head_dim": 4,
                      "ffn": {"type": "dense", "d_ff": 16, "activation": "swiglu"}},
    "llama_tied_documents": {"backbone": "llama", "heads": 2, "tie_embeddings": True, "rope_theta": 500.0,
                             "ffn": {"type": "dense", "d_ff": 16, "activation": "geglu"}},
}


def resolve(case):
    """The case with the defaults of its backbone."""
    m = {**BASE, **case}
    gpt = m["backbone"] == "gpt"
    m.setdefault("positions", "learned" if gpt else "rope")
    m.setdefault("tie_embeddings", gpt)
    m.setdefault("kv_heads", m["heads"])
    m.setdefault("head_dim", m["d_model"] // m["heads"])
    m.setdefault("rope_theta", 10000.0)
    m["biased"] = gpt
    m["output_bias"] = m.get("bias", {}).get("output", False)
    m["layer_norm"] = gpt
    m["gated"] = m["ffn"]["activation"] in ("swiglu", "geglu")
    return m


def parameter_shapes(m):
    d, d_ff, V = m["d_model"], m["ffn"]["d_ff"], m["vocab_size"]
    qkv, out = (m["heads"] + 2 * m["kv_heads"]) * m["head_dim"], m["heads"] * m["head_dim"]
    shapes = {"embed.tokens.weight": (V, d)}
    if m["positions"] == "learned":
        shapes["embed.positions.weight"] = (m["context"], d)

    def norm(name):
        shapes[name + ".weight"] = (d,)
        if m["layer_norm"]:
            shapes[name + ".bias"] = (d,)

    def linear(name, rows, columns, bias_size):
        shapes[name + ".weight"] = (rows, columns)
        if bias_size:
            shapes[name + ".bias"] = (bias_size,)

    for i in range(m["layers"]):
        layer = f"layers.{i}."
        norm(layer + "attn_norm")
        linear(layer + "attn.qkv", qkv, d, m["biased"] and qkv)
        linear(layer + "attn.out", d, out, m["biased"] and d)
        norm(layer + "ffn_norm")
        linear(layer + "ffn.keys", d_ff, d, m["biased"] and d_ff)
        if m["gated"]:
            linear(layer + "ffn.gate_keys", d_ff, d, 0)
        linear(layer + "ffn.values", d_ff, d, m["biased"] and d)
    norm("final_norm")
    if not m["tie_embeddings"]:
        linear("lm_head", V, d, m["output_bias"] and V)
    return shapes


def draw_weights(m, name):
    """Normal values that float32 holds exactly; norm weights around 1. Python's generator is the same everywhere."""
    weights = {}
    for tensor, shape in parameter_shapes(m).items():
        source = random.Random(f"{name}/{tensor}")
        center = 1.0 if tensor.endswith("norm.weight") else 0.0
        values = [center + 0.3 * source.gauss(0, 1) for _ in range(math.prod(shape))]
        weights[tensor] = torch.tensor(values, dtype=torch.float32).double().reshape(shape).requires_grad_()
    return weights


def draw_batch(m, name):
    source = random.Random(f"{name}/tokens")
    inputs = [[source.randrange(m["vocab_size"]) for _ in range(TIME)] for _ in range(BATCH)]
    targets = [[source.randrange(m["vocab_size"]) for _ in range(TIME)] for _ in range(BATCH)]
    targets[0][2] = targets[1][5] = -1
    start = [[0] * TIME for _ in range(BATCH)]
    if name.endswith("documents"):
        start = [[0 if t < 3 else 3 if t < 4 else 4 for t in range(TIME)], [0 if t < 5 else 5 for t in range(TIME)]]
    return torch.tensor(inputs), torch.tensor(targets), torch.tensor(start)


def normalise(x, weight, bias):
    if bias is not None:
        centred = x - x.mean(-1, keepdim=True)
        return centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5) * weight + bias
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def activate(kind, x):
    if kind == "relu":
        return torch.where(x > 0, x, torch.zeros_like(x))
    if kind in ("gelu", "geglu"):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))
    if kind == "gelu_erf":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    return x / (1 + torch.exp(-x))


def rotate(x, positions, theta):
    """x [B, heads, T, d_h]: pairs (i, i + d_h/2) turn by position · theta^(-2i/d_h)."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float64) * 2 / x.shape[-1])
    angle = positions.double()[:, None, :, None] * frequencies
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


def attend(m, weights, layer, x, positions, start):
    def heads(part, count):
        return part.reshape(BATCH, TIME, count, m["head_dim"]).transpose(1, 2)

    H, H_kv, d_h = m["heads"], m["kv_heads"], m["head_dim"]
    qkv = linear(weights, layer + "attn.qkv", x)
    q, k, v = torch.split(qkv, [H * d_h, H_kv * d_h, H_kv * d_h], -1)
    q, k, v = heads(q, H), heads(k, H_kv), heads(v, H_kv)
    if m["positions"] == "rope":
        q, k = rotate(q, positions, m["rope_theta"]), rotate(k, positions, m["rope_theta"])
    k, v = (part.repeat_interleave(H // H_kv, dim=1) for part in (k, v))
    j, i = torch.arange(TIME)[None, None, :], torch.arange(TIME)[None, :, None]
    visible = (j <= i) & (j >= start[:, :, None])
    scores = (q @ k.transpose(-1, -2) / math.sqrt(d_h)).masked_fill(~visible[:, None], -math.inf)
    out = torch.softmax(scores, -1) @ v
    return linear(weights, layer + "attn.out", out.transpose(1, 2).reshape(BATCH, TIME, H * d_h))


def linear(weights, name, x):
    y = x @ weights[name + ".weight"].T
    return y + weights[name + ".bias"] if name + ".bias" in weights else y


def feed_forward(m, weights, layer, x):
    z = linear(weights, layer + "ffn.keys", x)
    kind = m["ffn"]["activation"]
    h = activate(kind, linear(weights, layer + "ffn.gate_keys", x)) * z if m["gated"] else activate(kind, z)
    y = h @ weights[layer + "ffn.values.weight"]
    return y + weights[layer + "ffn.values.bias"] if m["biased"] else y


def sinusoids(positions, d):
    i = torch.arange(d)
    angle = positions.double()[..., None] * 10000.0 ** (-(i // 2 * 2).double() / d)
    return torch.where(i % 2 == 0, angle.sin(), angle.cos())


def forward(m, weights, inputs, positions, start):
    def norm(name, x):
        return normalise(x, weights[name + ".weight"], weights.get(name + ".bias"))

    h = weights["embed.tokens.weight"][inputs]
    if m["positions"] == "learned":
        h = h + weights["embed.positions.weight"][positions]
    elif m["positions"] == "sinusoidal":
        h = h + sinusoids(positions, m["d_model"])
    hidden = []
    for i in range(m["layers"]):
        layer = f"layers.{i}."
        h = h + attend(m, weights, layer, norm(layer + "attn_norm", h), positions, start)
        h = h + feed_forward(m, weights, layer, norm(layer + "ffn_norm", h))
        hidden.append(h)
    output = "embed.tokens" if m["tie_embeddings"] else "lm_head"
    return linear(weights, output, norm("final_norm", h)), hidden


def write_safetensors(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, tensor in sorted(tensors.items()):
        kind, form = ("I32", "i") if tensor.dtype == torch.int32 else ("F32", "f")
        values = tensor.detach().reshape(-1).tolist()
        packed = struct.pack(f"<{len(values)}{form}", *values)
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def make(name, case, folder):
    m = resolve(case)
    weights = draw_weights(m, name)
    inputs, targets, start = draw_batch(m, name)
    positions = torch.arange(TIME)[None] - start
    logits, hidden = forward(m, weights, inputs, positions, start)
    scored = targets >= 0
    log_p = logits - torch.logsumexp(logits, -1, keepdim=True)
    picked = log_p.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    loss = -(picked * scored).sum() / scored.sum()
    loss.backward()
    tensors = {name: weight.float() for name, weight in weights.items()}
    tensors.update({"grad." + name: weight.grad.float() for name, weight in weights.items()})
    tensors.update({f"hidden.{i}": h.float() for i, h in enumerate(hidden)})
    tensors.update(loss=loss.float(), logits=logits.float(), inputs=inputs.int(), targets=targets.int(),
                   positions=positions.int())
    if name.endswith("documents"):
        tensors["segment_start"] = start.int()
    config = json.dumps({"model": {**BASE, **case}})
    write_safetensors(os.path.join(folder, name + ".safetensors"), tensors, {"config": config})


def main():
    folder = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    os.makedirs(folder, exist_ok=True)
    for name, case in CASES.items():
        make(name, case, folder)


if __name__ == "__main__":
    main()
