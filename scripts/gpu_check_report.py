"""The table of scripts/gpu_check.sh: markdown of its JSON."""
import gpu_check_run  # noqa: F401, the path of peers
import peers as join_peers

PROFILE_ROWS = 15


def milliseconds(value):
    return "-" if value is None else f"{value:.3f}"


def share(value):
    return "-" if value is None else f"{100 * value:.1f}%"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def profile(rows):
    head = ["kernel", "launches", "ms", "of the step", "GB/s", "TFLOP/s", "of roofline"]
    body = [[f"`{row['kernel']}`", row["launches"], milliseconds(row["ms"]), share(row["share"]),
             "-" if row["gb_per_s"] is None else f"{row['gb_per_s']:.0f}",
             "-" if row["tflops"] is None else f"{row['tflops']:.1f}", share(row["of_roofline"])]
            for row in rows[:PROFILE_ROWS]]
    rest = rows[PROFILE_ROWS:]
    if rest:
        body.append([f"{len(rest)} others", sum(row["launches"] for row in rest),
                     milliseconds(sum(row["ms"] for row in rest)), share(sum(row["share"] for row in rest)), "", "", ""])
    return table(head, body)


def step(result):
    ours, torch = result["step"], result.get("torch", {})
    low, high = result["predicted_h200"]
    lines = table(["", "tokens/s", "step, ms", "TFLOP/s", "MFU"],
                  [["sffn", f"{ours['tokens_per_second']:.0f}", milliseconds(ours["step_ms"]),
                    f"{ours['model_tflops']:.1f}", share(ours["mfu"])],
                   ["predicted for an H200 at 85% of its ceilings, at them", f"{low:.0f}, {high:.0f}", "", "", ""]]
                  + ([["PyTorch", f"{torch['tokens_per_second']:.0f}", milliseconds(torch["step_ms"]), "", ""]]
                     if "tokens_per_second" in torch else [])
                  + ([["PyTorch", "cut off", "cut off", "", ""]] if "cut_off" in torch else []))
    if "error" in torch:
        lines.append(f"\nPyTorch: {torch['error']}")
    lines += ["", f"Memory {ours['memory_bytes'] / 1e9:.1f} GB; optimizer {milliseconds(ours['optimizer_ms'])} ms; "
              f"outside of kernels {milliseconds(ours['outside_kernels_ms'])} ms. By the time lost to the roofline:", ""]
    return lines + profile(ours["profile"])


def compared(rows):
    def worst(row):
        tensor = row.get("first") or row.get("worst")
        return row.get("error", "-") if tensor is None else f"{tensor['name']}: {tensor['error']:.1e} of {tensor['tolerance']:.0e}"

    said = {True: "yes", False: "**no**", None: "not done"}
    return table(["configuration", "precision", "agree", "worst tensor, or the first that differs"],
                 [[row["name"], row["precision"], said[row["agree"]], worst(row)] for row in rows])


def ranks(result):
    def cells(row):
        errors = [f"{row[key]:.1e}" if key in row else "-" for key in ("loss", "grad_norm")]
        return [row["name"], ", ".join(row["parallel"]), "yes" if row["agree"] else "**no**", *errors]

    lines = table(["configuration", "`parallel`", "agree", "worst error of the loss", "of the gradient's norm"],
                  map(cells, result["rows"]))
    for row in result["rows"]:
        if "error" in row:
            lines += ["", f"{row['name']}:", "", "```", row["error"], "```"]
    links = result["links"]
    if "error" in links:
        return lines + ["", "`sffn bench comm`:", "", "```", links["error"], "```"]
    return lines + ["", f"Both through the loopback, by `sffn bench comm`: `{links['network']}`"]


def section(name, slot):
    lines = [f"## {name}: {slot['title']}", "", f"{slot['status']}" + (f", {slot['seconds']} s" if "seconds" in slot else "")]
    if "error" in slot:
        lines += ["", slot["error"]]
    result = slot.get("result", {})
    if "summary" in result:
        lines += [""] + [f"* {line}" for line in result["summary"]]
    for peer, rows in result.get("cut_off", {}).items():
        lines += ["", f"{peer}, cut off as the time was over: {'; '.join(rows)}"]
    if result.get("suspect"):
        lines += ["", "Faster than the device can be, or wrong: " + "; ".join(result["suspect"])]
    if "step" in result:
        lines += [""] + step(result)
    elif name == "compare" and "rows" in result:
        lines += [""] + compared(result["rows"])
    elif name == "ranks" and "rows" in result:
        lines += [""] + ranks(result)
    elif "rows" in result:
        lines += ["", join_peers.table(result["rows"])]
    return lines


def markdown(report):
    machine = report["machine"]
    facts = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items() if value and key != "date")
    lines = [f"# {machine.get('card') or 'GPU'}, {machine['date']}", "",
             "Written by `scripts/gpu_check.sh`; all numbers are in `result.json`.", "", facts + ".", "",
             "Times are medians of at least 20 calls after at least 10 warm-ups, by CUDA events, on normal random data that "
             "exceed the cache. Predicted: what the device should sustain of the bytes and FLOPs that must move, or for "
             "attention on an H200 what is published for cuDNN; a share is that time over the measured one. Of "
             "another program: \"cut off\" says that the time was over, \"in D-64\" that this slot has its time, \"failed\" that "
             "`result.json` has the error; \"-\" that it has no such row.", ""]
    if report.get("left_out"):
        lines += [f"Left out, as the time was over: {', '.join(report['left_out'])}.", ""]
    for name, slot in report["slots"].items():
        lines += section(name, slot) + [""]
    return "\n".join(lines)
