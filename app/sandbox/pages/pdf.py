"""A small PDF 1.4 writer: pages of Helvetica text and rules, which is all an invoice needs."""

from dataclasses import dataclass, field

WIDTH, HEIGHT = 612, 792  # points; US letter, as Stripe's invoices are

#: Adobe's metrics of Helvetica for " " to "~", in thousandths of the font size.
_WIDTHS = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
)  # fmt: skip
_DEFAULT_WIDTH = 556  # accented letters and currency signs are about this wide


@dataclass(slots=True)
class Page:
    """What stands on one page; y counts up from the bottom, in points."""

    _operators: list[bytes] = field(default_factory=list)

    def text(self, x: float, y: float, text: str, *, size: float = 10, bold: bool = False, grey: bool = False) -> None:
        # Windows-1252 is what the standard fonts can show; anything else becomes a question mark.
        shown = text.encode("cp1252", "replace")
        for byte in (b"\\", b"(", b")"):
            shown = shown.replace(byte, b"\\" + byte)
        head = f"BT /F{2 if bold else 1} {size:g} Tf {0.4 if grey else 0:g} g {x:.2f} {y:.2f} Td ("
        self._operators.append(head.encode() + shown + b") Tj ET")

    def text_ending_at(self, x: float, y: float, text: str, *, size: float = 10, bold: bool = False) -> None:
        self.text(x - text_width(text, size), y, text, size=size, bold=bold)

    def rule(self, x: float, y: float, length: float) -> None:
        self._operators.append(f"0.7 G 0.75 w {x:.2f} {y:.2f} m {x + length:.2f} {y:.2f} l S".encode())

    def content(self) -> bytes:
        return b"\n".join(self._operators)


def text_width(text: str, size: float) -> float:
    """Measure text set in Helvetica; bold letters are wider, bold digits are not."""
    widths = (_WIDTHS[ord(c) - 32] if " " <= c <= "~" else _DEFAULT_WIDTH for c in text)
    return sum(widths) * size / 1000


def wrap(text: str, width: float, size: float) -> list[str]:
    """Break text into lines no wider than ``width`` points, between words where it can."""
    lines = [""]
    for word in text.split():
        candidate = f"{lines[-1]} {word}".lstrip()
        if text_width(candidate, size) <= width:
            lines[-1] = candidate
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if text_width(lines[-1] + character, size) > width:
                lines.append("")
            lines[-1] += character
    return lines


def document(pages: list[Page], *, title: str) -> bytes:
    """Assemble the file: objects in order, then the cross-reference table of their byte offsets."""
    first_page = 6
    kids = " ".join(f"{first_page + 2 * n} 0 R" for n in range(len(pages)))
    fonts = "/Type /Font /Subtype /Type1 /Encoding /WinAnsiEncoding /BaseFont"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /Lang (en) >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        f"<< {fonts} /Helvetica >>".encode(),
        f"<< {fonts} /Helvetica-Bold >>".encode(),
        b"<< /Producer (Billhook sandbox) /Title <FEFF" + title.encode("utf-16-be").hex().upper().encode() + b"> >>",
    ]
    for n, page in enumerate(pages):
        content = page.content()
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {WIDTH} {HEIGHT}] /Contents {first_page + 2 * n + 1} 0 R"
            " /Resources << /Font << /F1 3 0 R /F2 4 0 R >> >> >>".encode(),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        ]
    # The second line's high bytes tell transfer programs that the file is binary.
    out = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<< /Size %d /Root 1 0 R /Info 5 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)
