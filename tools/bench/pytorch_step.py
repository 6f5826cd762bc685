#!/usr/bin/env python3
"""Times one training step of a GPT in plain PyTorch: the peer of `sffn bench step`.

A step is forward, backward, clipping by the global norm and AdamW, on one micro-batch of random tokens. Medians over the
timed steps, after warm-up; prints one JSON object.
    python3 tools/bench/pytorch_step.py --layers 12 --d-model 768 --heads 12 --vocab 50304 --micro-batch 4 --precision bf16
On a GPU (--device cuda) attention is forced to cuDNN, and --compile compiles each block.
"""
import argparse
import contextlib
import json
import os
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, d_model, heads, d_ff):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(d_model)
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.attention_out = nn.Linear(d_model, d_model)
        self.norm_ffn = nn.LayerNorm(d_model)
        self.ffn_in = nn.Linear(d_model, d_ff)
        self.ffn_out = nn.Linear(d_ff, d_model)

    def forward(self, x):
        batch, time_steps, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, time_steps, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(attended.transpose(1, 2).reshape(batch, time_steps, width))
        return x + self.ffn_out(F.gelu(self.ffn_in(self.norm_ffn(x)), approximate="tanh"))


class Gpt(nn.Module):
    """Pre-norm GPT with learned positions and tied embeddings."""

    def __init__(self, o):
        super().__init__()
        self.tokens = nn.Embedding(o.vocab, o.d_model)
        self.positions = nn.Embedding(o.context, o.d_model)
        self.blocks = nn.ModuleList(Block(o.d_model, o.heads, o.d_ff) for _ in range(o.layers))
        self.norm = nn.LayerNorm(o.d_model)
        self.head = nn.Linear(o.d_model, o.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        self.head.weight = self.tokens.weight

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def make_optimizer(model, kind):
    decayed = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), **{kind: True})


def attention_backend(device):
    """cuDNN's on a GPU, where the default would be slower; PyTorch's own on a CPU."""
    if device != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION)


def compiled(model, device):
    if device != "cuda":
        return torch.compile(model)
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block)
    return model


def run(o):
    torch.manual_seed(1)
    model = Gpt(o).to(o.device)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = make_optimizer(model, o.adamw)
    forward = compiled(model, o.device) if o.compile else model
    ids = torch.randint(0, o.vocab, (o.micro_batch, o.context + 1), device=o.device)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step():
        with torch.autocast(o.device, dtype=torch.bfloat16, enabled=o.precision == "bf16"), attention_backend(o.device):
            loss = forward(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(o.warmup):
        step()
    seconds = []
    for _ in range(o.steps):
        begin = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - begin)
    median = statistics.median(seconds)
    return {
        "step_ms": 1e3 * median,
        "step_ms_min": 1e3 * min(seconds),
        "tokens_per_second": o.micro_batch * o.context / median,
        "parameters": parameters,
        "loss": loss,
        "device": torch.cuda.get_device_name() if o.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        **{key: getattr(o, key) for key in ("layers", "d_model", "heads", "d_ff", "context", "vocab", "micro_batch",
                                            "precision", "steps", "adamw", "compile")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--d-ff", type=int, default=0, help="default 4 x d_model")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--adamw", choices=("fused", "foreach"), default="fused")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model, on a GPU each block (needs a C++ compiler)")
    options = parser.parse_args()
    options.d_ff = options.d_ff or 4 * options.d_model
    torch.set_num_threads(options.threads)
    print(json.dumps(run(options)))


if __name__ == "__main__":
    main()
