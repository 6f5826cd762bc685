#!/usr/bin/env python3
"""Draws the load of every block over training, one panel a sparse layer.

    scripts/plot_load.py RUN [--out FILE.svg]        default: RUN/block_load.svg

RUN/block_load.jsonl is written by a run with  --set log.block_load=true. A column is a logged step, a row a block, sorted
by their load at the last step; white: never chosen, blue: the mean load, dark red: four times the mean and more. Neighbouring
blocks or steps share a cell where there are more than the picture has room for.
"""
import argparse
import json
import pathlib
import sys

from svg import Svg

COLUMNS, ROWS, CELL, LEFT, TOP = 160, 64, 4, 70, 60


def colour_of(load):
    """load: in units of the mean."""
    stops = [(0.0, (255, 255, 255)), (0.25, (222, 235, 247)), (1.0, (49, 130, 189)), (2.0, (253, 141, 60)), (4.0, (128, 0, 38))]
    load = min(load, 4.0)
    for (low, start), (high, end) in zip(stops, stops[1:]):
        if load <= high:
            part = (load - low) / (high - low)
            return "#%02x%02x%02x" % tuple(round(a + part * (b - a)) for a, b in zip(start, end))
    return "#800026"


def shrunk(values, count):
    """`values` as at most `count` means of neighbours."""
    if len(values) <= count:
        return values
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:])]


def read(path):
    """{layer: [[load over mean of each block] of each logged step]}, [step]"""
    layers, steps = {}, []
    for line in path.read_text().splitlines():
        record = json.loads(line)
        steps.append(record["step"])
        for layer, load in record["load"].items():
            mean = sum(load) / len(load) or 1
            layers.setdefault(layer, []).append([count / mean for count in load])
    return layers, steps


def draw(layers, steps, name, out):
    height = ROWS * CELL
    picture = Svg(LEFT + COLUMNS * CELL + 130, TOP + len(layers) * (height + 50) + 10)
    picture.text(LEFT, 24, f"Load of blocks over training: {name}", 15)
    picture.text(LEFT, 42, "rows: blocks by their last load; columns: steps; colour: load over the mean", 11, colour="#555")
    for number, (layer, table) in enumerate(sorted(layers.items(), key=lambda item: int(item[0]))):
        top = TOP + number * (height + 50)
        order = sorted(range(len(table[-1])), key=lambda block: -table[-1][block])
        columns = [[step[block] for block in order] for step in table]
        rows = [shrunk([column[block] for column in columns], COLUMNS) for block in range(len(order))]
        cells = [shrunk([row[i] for row in rows], ROWS) for i in range(len(rows[0]))]
        wide, tall = COLUMNS * CELL / len(cells), height / len(cells[0])
        for i, column in enumerate(cells):
            for j, load in enumerate(column):
                picture.rect(LEFT + i * wide, top + j * tall, wide + 0.3, tall + 0.3, colour_of(load))
        picture.text(LEFT - 8, top + height / 2, f"layer {layer}", anchor="end")
        picture.text(LEFT - 8, top + height / 2 + 15, f"{len(order)} blocks", 10, "end", "#555")
        picture.text(LEFT, top + height + 15, f"step {steps[0]}", 10, colour="#555")
        picture.text(LEFT + COLUMNS * CELL, top + height + 15, f"step {steps[-1]}", 10, "end", "#555")
        dead = sum(1 for load in table[-1] if load == 0) / len(table[-1])
        picture.text(LEFT + COLUMNS * CELL + 8, top + 14, f"max {max(table[-1]):.1f}x", 11)
        picture.text(LEFT + COLUMNS * CELL + 8, top + 30, f"dead {100 * dead:.0f} %", 11)
    picture.write(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    source = arguments.run / "block_load.jsonl"
    if not source.is_file():
        sys.exit(f"error: {source}: does not exist; train with --set log.block_load=true")
    layers, steps = read(source)
    if not layers:
        sys.exit(f"error: {source}: holds no layer that chooses blocks")
    out = arguments.out or arguments.run / "block_load.svg"
    draw(layers, steps, arguments.run.name, out)
    print(f"{out}: {len(layers)} layers, {len(steps)} steps")


if __name__ == "__main__":
    main()
