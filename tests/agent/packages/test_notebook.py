"""A notebook on the image's own, unmodified kernel: what %pip and !pip install is there at once, and lies in the layer."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from drivefs_agent.packages.activation import disable, enable
from drivefs_agent.packages.interpreter import ask
from drivefs_agent.packages.layer import layer_for
from drivefs_agent.packages.scan import distributions
from tests.agent.packages.images import THIS, Image
from tests.agent.packages.wheels import wheel

JUPYTER: Final = Path(sys.prefix) / "jupyter"

# Runs the cells that it is given, and prints each one's output. It stops at the first error, and says it.
_NOTEBOOK: Final = """
import json, sys
import nbformat
from nbclient import NotebookClient
cells = [nbformat.v4.new_code_cell(source) for source in json.loads(sys.argv[1])]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
print(json.dumps(["".join(output.get("text", "") for output in cell.outputs) for cell in cells]))
"""


@pytest.fixture
def notebook_image(image: Image) -> Image:
    """An image that brings Jupyter along: its kernel is made known, and its packages lie on the image's path."""
    if not (JUPYTER / "bin" / "python").exists():
        pytest.skip("no .venv/jupyter here to take Jupyter from; scripts/setup makes it")
    (image.site / "jupyter.pth").write_text(f"{JUPYTER}/lib/python{THIS}/site-packages\n")
    kernel = image.prefix / "share/jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [str(image.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    return image


def run_cells(image: Image, *cells: str) -> list[str]:
    """What each cell prints."""
    runtime = image.home / "runtime"
    more = {"JUPYTER_PATH": str(image.prefix / "share/jupyter"), "JUPYTER_RUNTIME_DIR": str(runtime), "IPYTHONDIR": str(runtime)}
    answer = image.run(JUPYTER / "bin" / "python", "-c", _NOTEBOOK, json.dumps(cells), more=more)
    found: Any = json.loads(answer)
    return [str(output) for output in found]


@pytest.mark.slow
def test_a_notebook_installs_and_imports_in_one_session(notebook_image: Image, tmp_path: Path) -> None:
    """%pip, !pip and !uv pip; imports without a restart; a console script; torch stays the image's; the image stays as it was."""
    image = notebook_image
    image.unpack(wheel(tmp_path / "furniture", "torch", "2.13.0+cpu"))
    image.unpack(wheel(tmp_path / "furniture", "beta", "1.0"))
    says = "import sys\ndef main():\n    print('alpha of', sys.prefix)\n"
    wheel(image.links, "alpha", requires=["torch>=2"], console={"alpha": "alpha:main"}, files={"alpha.py": says})
    wheel(image.links, "torch", "2.15.0")
    wheel(image.links, "beta", "2.0")
    wheel(image.links, "gamma", requires=["torch"])
    before = image.contents()
    layer = layer_for(ask(image.python), tmp_path / "layers")
    enable(layer)
    uv = Path(sys.prefix) / "bin" / "uv"
    python, installed, imported, shell, upgraded, script, by_uv, torch = run_cells(
        image,
        "import sys; print(sys.executable)",
        "%pip install alpha",
        "import alpha; alpha.main()",
        "!pip install -U beta",
        "import beta; print(beta.version)",
        "!alpha",
        f"!{uv} pip install gamma\nimport gamma; print(gamma.version)",
        "import torch; print(torch.__file__, torch.version)",
    )
    assert python.strip() == str(image.python)
    assert "Successfully installed alpha-1.0" in installed
    assert imported == f"alpha of {image.prefix}\n"
    assert "Successfully installed beta-2.0" in shell
    assert upgraded == "2.0\n"
    assert script.replace("\r", "") == f"alpha of {layer.current}\n"
    assert by_uv.endswith("1.0\n")
    assert torch == f"{image.site}/torch.py 2.13.0+cpu\n"
    assert distributions(layer.site) == {"alpha": "1.0", "beta": "2.0", "gamma": "1.0"}
    disable(layer)
    assert image.contents() == before
