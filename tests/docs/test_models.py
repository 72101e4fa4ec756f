"""docs/models.md against the registry and the shipped checkpoints."""

import re
from pathlib import Path

from delugeserve.artifacts.checkpoints import read_header
from delugeserve.networks.flops import count
from delugeserve.zoo import MODELS

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


def test_the_table():
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == list(MODELS)
    for name, rest in rows:
        spec, complexity = MODELS[name], count(MODELS[name])
        cells = [cell.strip() for cell in rest.split("|")]
        assert cells[0] == spec.task.title
        assert cells[1:3] == [str(spec.task.image_size), str(spec.architecture.depth)]
        assert cells[3] == f"{complexity.params / 1e6:.3f}M"
        assert cells[6] == f"{complexity.flops / 1e9:.2f}"
        assert cells[7] == f"{complexity.paper_flops / 1e9:.2f}"
        if spec.published:
            assert cells[4] == f"{spec.published.params_m:.2f}M"
            assert float(cells[8]) == spec.published.gflops
            assert cells[9].startswith(f"{spec.published.top1_error:.2f}")
        if spec.weights:
            assert cells[10] == f"{read_header(spec.weights).metrics['top1_error']:.2f}"
        else:
            assert cells[10] == "-"
