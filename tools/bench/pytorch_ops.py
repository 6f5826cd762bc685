#!/usr/bin/env python3
"""Times PyTorch's own operators at the shapes of our rows: the peer of `sffn bench ops --group …`.

Reads the JSON that `sffn bench ops CONFIG --group A --group B … --json` printed, and for each row it knows an operator
for prints lines {"name", "shape", "ms", "peer"}, as tools/bench/peers.py joins them. Built-ins alone: torch.matmul,
index_select, SDPA forced to cuDNN and to flash, layer_norm, gelu and cross_entropy eager and compiled, AdamW(fused=True),
and for a sparse layer index_select, torch._grouped_mm and index_add. CUDA events, at least 10 warm-ups, the median of 20
calls, sets of normal random tensors that take turns and exceed the cache. A row that fails becomes a line with "error".
First comes a line with "planned" for each row and peer; what --seconds leaves no time for, a line with "cut_off".

    python3 tools/bench/pytorch_ops.py --rows ours.json
"""
import argparse
import json
import re
import statistics
import sys
import time

BEGIN = time.monotonic()  # --seconds has the import of PyTorch in it

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402


class Timer:
    def __init__(self, device, repeats):
        self.device, self.repeats = device, repeats

    def sets(self, tensor_bytes):
        if self.device.type != "cuda":
            return 1
        cache = torch.cuda.get_device_properties(self.device).L2_cache_size
        if tensor_bytes >= 16 * cache:
            return 1
        return min(64, max(3, 2 * cache // max(tensor_bytes, 1) + 1))

    def median_ms(self, make):
        """make() allocates one set, and returns the call on it and the set's bytes."""
        first, tensor_bytes = make()
        calls = [first] + [make()[0] for _ in range(self.sets(tensor_bytes) - 1)]
        for i in range(max(self.repeats // 2, len(calls))):
            calls[i % len(calls)]()
        if self.device.type != "cuda":
            return 1e3 * statistics.median(self.host_seconds(calls[i % len(calls)]) for i in range(self.repeats))
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(self.repeats + 1)]
        marks[0].record()
        for i in range(self.repeats):
            calls[i % len(calls)]()
            marks[i + 1].record()
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))

    @staticmethod
    def host_seconds(call):
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin


class Ops:
    """One method a row's name: yields (peer, make) pairs."""

    def __init__(self, device):
        self.device = device

    def normal(self, *shape, grad=False):
        return torch.randn(*shape, device=self.device, dtype=torch.bfloat16, requires_grad=grad)

    @staticmethod
    def numbers(row):
        return [int(n) for n in re.findall(r"\d+", row["shape"].split(" bf16")[0])]

    @staticmethod
    def size(*tensors):
        return sum(t.numel() * t.element_size() for t in tensors)

    def copy(self, row):
        (count,) = self.numbers(row)

        def make():
            source, target = self.normal(count), self.normal(count)
            return lambda: target.copy_(source), self.size(source, target)

        yield "torch", make

    def gather_rows(self, row):
        count, table, width = self.numbers(row)

        def make():
            rows, order = self.normal(table, width), torch.randperm(table, device=self.device)[:count]
            return lambda: rows.index_select(0, order), 2 * self.size(rows)

        yield "torch index_select", make

    def matmul(self, row):
        m, n, k = (row[key] for key in "MNK") if "M" in row else self.numbers(row)[:3]
        ta, tb = row.get("transpose_a", False), row.get("transpose_b", True)
        if row.get("input", "bf16") != "bf16":
            return

        def make():
            a = self.normal(k, m).t() if ta else self.normal(m, k)
            b = self.normal(n, k).t() if tb else self.normal(k, n)
            return lambda: torch.matmul(a, b), self.size(a, b) + 2 * m * n

        yield "torch", make

    def attention(self, row, backward):
        batch, heads, steps, width = self.numbers(row)
        for peer, backend in (("torch cudnn", SDPBackend.CUDNN_ATTENTION), ("torch flash", SDPBackend.FLASH_ATTENTION)):

            def make(backend=backend):
                qkv = [self.normal(batch, heads, steps, width, grad=backward) for _ in range(3)]

                def forward():
                    with sdpa_kernel(backend):
                        return F.scaled_dot_product_attention(*qkv, is_causal=True)

                if not backward:
                    return forward, 4 * self.size(qkv[0])
                out = forward()
                dout = torch.randn_like(out)
                return (lambda: torch.autograd.grad(out, qkv, dout, retain_graph=True)), 8 * self.size(out)

            yield peer, make

    def attention_forward(self, row):
        yield from self.attention(row, False)

    def attention_backward(self, row):
        yield from self.attention(row, True)

    def pointwise(self, backward, function, make_inputs):
        for peer, call in (("torch eager", function), ("torch compiled", torch.compile(function, dynamic=False))):

            def make(call=call):
                inputs = make_inputs()
                if not backward:
                    return (lambda: call(*inputs)), self.size(*inputs)
                out = call(*inputs)
                wanted = [t for t in inputs if t.requires_grad]
                dout = torch.randn_like(out)
                return (lambda: torch.autograd.grad(out, wanted, dout, retain_graph=True)), 3 * self.size(out)

            yield peer, make

    def add_norm(self, row, backward):
        tokens, width = self.numbers(row)

        def inputs():
            rows = [self.normal(tokens, width, grad=backward) for _ in range(2)]
            return rows + [torch.ones(width, device=self.device, dtype=torch.bfloat16, requires_grad=backward)
                           for _ in range(2)]

        yield from self.pointwise(backward, lambda x, pending, w, b: F.layer_norm(x + pending, (width,), w, b), inputs)

    def add_norm_forward(self, row):
        yield from self.add_norm(row, False)

    def add_norm_backward(self, row):
        yield from self.add_norm(row, True)

    def gelu(self, row, backward):
        tokens, width = self.numbers(row)
        yield from self.pointwise(backward, lambda z: F.gelu(z, approximate="tanh"),
                                  lambda: [self.normal(tokens, width, grad=backward)])

    def activation_forward(self, row):
        yield from self.gelu(row, False)

    def activation_backward(self, row):
        yield from self.gelu(row, True)

    def cross_entropy(self, row):
        tokens, vocab = self.numbers(row)
        for peer, call in (("torch eager", lambda l, t: F.cross_entropy(l.float(), t)),
                           ("torch compiled", torch.compile(lambda l, t: F.cross_entropy(l.float(), t), dynamic=False))):

            def make(call=call):
                logits = self.normal(tokens, vocab, grad=True)
                targets = torch.randint(0, vocab, (tokens,), device=self.device)
                return (lambda: torch.autograd.grad(call(logits, targets), logits)), 2 * self.size(logits)

            yield peer, make

    def adamw(self, row):
        (count,) = self.numbers(row)

        def make():
            weight = torch.nn.Parameter(torch.randn(count, device=self.device))
            weight.grad = torch.randn_like(weight)
            optimizer = torch.optim.AdamW([weight], lr=1e-4, fused=True)
            return optimizer.step, 16 * count

        yield "torch fused", make

    def dense_ffn(self, row, backward):
        tokens, width, cells = self.numbers(row)
        for peer, wrap in (("torch eager", lambda f: f), ("torch compiled", lambda f: torch.compile(f, dynamic=False))):

            def make(wrap=wrap):
                x = self.normal(tokens, width, grad=backward)
                keys, values = self.normal(width, cells, grad=backward), self.normal(cells, width, grad=backward)
                dy = self.normal(tokens, width)
                layer = wrap(lambda x, keys, values: F.gelu(x @ keys, approximate="tanh") @ values)
                return self.forward_or_both(layer, (x, keys, values), dy, backward), self.size(x, keys, values)

            yield peer, make

    @staticmethod
    def forward_or_both(layer, inputs, dy, backward):
        if not backward:
            return lambda: layer(*inputs)
        return lambda: torch.autograd.grad(layer(*inputs), inputs, dy)

    def dense_ffn_forward(self, row):
        yield from self.dense_ffn(row, False)

    def dense_ffn_forward_backward(self, row):
        yield from self.dense_ffn(row, True)

    def sffn(self, row, backward):
        """Rows sorted by block, gathered, multiplied in groups, and added up by token."""
        tokens, width, cells, active, block = self.numbers(row)
        per_token, blocks = active // block, cells // block

        def layer(x, keys, values, order, ends):
            token = order // per_token
            hidden = F.gelu(torch._grouped_mm(x.index_select(0, token), keys, offs=ends), approximate="tanh")
            rows = torch._grouped_mm(hidden, values, offs=ends)
            return torch.zeros_like(x).index_add(0, token, rows)

        for peer, call in (("torch grouped_mm", layer), ("torch grouped_mm compiled", torch.compile(layer, dynamic=False))):

            def make(call=call):
                x = self.normal(tokens, width, grad=backward)
                keys = (self.normal(blocks, width, block) * width**-0.5).detach().requires_grad_(backward)
                values = (self.normal(blocks, block, width) * active**-0.5).detach().requires_grad_(backward)
                step = cells // active
                chosen = torch.arange(per_token, device=self.device) * step + torch.randint(
                    0, step, (tokens, per_token), device=self.device)
                order = chosen.flatten().argsort(stable=True)
                ends = torch.bincount(chosen.flatten(), minlength=blocks).cumsum(0).to(torch.int32)
                run = lambda x, keys, values: call(x, keys, values, order, ends)
                return self.forward_or_both(run, (x, keys, values), self.normal(tokens, width), backward), 1 << 40

            yield peer, make

    def sffn_forward_grouped(self, row):
        yield from self.sffn(row, False)

    def sffn_forward_backward_grouped(self, row):
        yield from self.sffn(row, True)


def rows_of(report):
    for group in report.get("groups", {}).values():
        yield from group
    yield from report.get("matmul", [])
    yield from report.get("ops", [])


def pairs(ops, rows):
    """(row, peer, make) of all that is timed, in the order of the rows."""
    for row in rows:
        peers = getattr(ops, row["name"], None)
        for peer, make in peers(row) if peers else ():
            yield row, peer, make


def tell(row, peer, **more):
    print(json.dumps({"name": row["name"], "shape": row["shape"], "peer": peer, **more}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="what `sffn bench ops … --json` printed")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=0, help="start no further row after so long; 0: no limit")
    options = parser.parse_args()
    torch.manual_seed(1)
    device = torch.device(options.device)
    ops, timer = Ops(device), Timer(device, options.repeats)
    with open(options.rows) as file:
        rows = list(rows_of(json.load(file)))
    for row, peer, _ in pairs(ops, rows):
        tell(row, peer, planned=True)
    late = False
    for row, peer, make in pairs(ops, rows):
        late = late or (options.seconds > 0 and time.monotonic() - BEGIN > options.seconds)
        if late:
            tell(row, peer, cut_off=True)
            continue
        try:
            tell(row, peer, ms=timer.median_ms(make))
        except Exception as error:  # an operator that a version or card lacks, or memory: the others go on
            tell(row, peer, error=str(error).splitlines()[0] if str(error) else type(error).__name__)
        torch._dynamo.reset()  # else a function compiled for many shapes runs uncompiled at last
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if late:
        sys.exit("stopped after --seconds; rows are missing")


if __name__ == "__main__":
    main()
