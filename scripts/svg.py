"""The little of SVG that the pictures of this project need: no dependency beyond Python itself."""
from xml.sax.saxutils import escape


class Svg:
    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, words, size=12, anchor="start", colour="#222", turn=0):
        rotate = f' transform="rotate({turn} {x:g} {y:g})"' if turn else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}"{rotate}>'
                          f"{escape(str(words))}</text>")

    def line(self, points, colour="#888", width=1.0):
        path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def circle(self, x, y, radius, colour):
        self.parts.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius}" fill="{colour}"/>')

    def rect(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{colour}"/>')

    def write(self, path):
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
                f'viewBox="0 0 {self.width} {self.height}" font-family="sans-serif">')
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([head, f'<rect width="{self.width}" height="{self.height}" fill="white"/>',
                                  *self.parts, "</svg>"]) + "\n")
