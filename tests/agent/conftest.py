"""What the agent's tests share: the published schema, made strict, and the driver library made of C."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parents[2] / "docs" / "specs.schema.json"
STUB = Path(__file__).parent / "nvml_stub.c"


def strict(schema: Any) -> Any:
    """Readers must ignore unknown names, but we write none that the schema does not have."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    tightened = {name: strict(value) for name, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        tightened["additionalProperties"] = False
    return tightened


@pytest.fixture(scope="session")
def conform() -> Callable[[Any], None]:
    """Fails where a value is not as docs/specs.schema.json says, or has a name that it lacks."""
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(strict(schema))

    def check(value: Any) -> None:
        problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(json.dumps(value)))]
        assert problems == []

    return check


@pytest.fixture(scope="session")
def stub_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a freshly compiled libnvidia-ml.so.1 that plays what $NVML_STUB says."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to build the driver library with")
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    command = [compiler, "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, "-o", str(library), str(STUB)], check=True, timeout=60)
    return library.parent
