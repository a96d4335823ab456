"""protos/ alone gives stubs in every language, also by the commands of clients/README.md."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.foreign.conftest import installed, missing
from tests.support.servers import ROOT

PROTOS = ROOT / "protos"
BUILT = ROOT / ".tools" / "clients"
README = (ROOT / "clients" / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: (\S+) -->\n```bash\n(.*?)```", README, re.DOTALL))
_RUN_S = 60.0

pytestmark = pytest.mark.foreign


# What protoc itself generates, and what has to stand in it.
LANGUAGES = {
    "cpp": {
        "grpc_service.pb.h": "namespace inference {",
        "health.pb.h": "namespace health {",
        "reflection_v1.pb.h": "namespace reflection {",
    },
    "csharp": {
        "GrpcService.cs": "namespace Penstock.Inference {",
        "ModelConfig.cs": "namespace Penstock.Inference {",
        "Health.cs": "namespace Grpc.Health.V1 {",
        "ReflectionV1.cs": "namespace Grpc.Reflection.V1 {",
        "ReflectionV1Alpha.cs": "namespace Grpc.Reflection.V1Alpha {",
    },
    "java": {
        "io/penstock/inference/ModelInferRequest.java": "package io.penstock.inference;",
        "io/penstock/inference/GrpcServiceProto.java": "package io.penstock.inference;",
        "io/penstock/inference/ModelConfigProto.java": "package io.penstock.inference;",
        "io/grpc/health/v1/HealthCheckRequest.java": "package io.grpc.health.v1;",
        "io/grpc/reflection/v1/ServerReflectionRequest.java": "package io.grpc.reflection.v1;",
        "io/grpc/reflection/v1alpha/ErrorResponse.java": "package io.grpc.reflection.v1alpha;",
    },
    "objc": {
        "GrpcService.pbobjc.h": "@interface PNSModelInferRequest",
        "ModelConfig.pbobjc.h": "@interface PNSModelConfig",
        "Health.pbobjc.h": "@interface GrpcHealthV1HealthCheckRequest",
    },
    "php": {
        "Penstock/Inference/ModelInferRequest.php": "namespace Penstock\\Inference;",
        "Penstock/Inference/ModelConfig.php": "namespace Penstock\\Inference;",
        "Grpc/Health/V1/HealthCheckRequest.php": "namespace Grpc\\Health\\V1;",
    },
    "ruby": {
        "grpc_service_pb.rb": "module Penstock\n  module Inference\n",
        "model_config_pb.rb": "module Penstock\n  module Inference\n",
        "health_pb.rb": "module Grpc\n  module Health\n    module V1\n",
    },
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_protos_alone_give_stubs_in_the_language_s_own_package(
    language: str, tmp_path: Path
) -> None:
    """The proto files alone give stubs in a language, in the package that they name for it."""
    protoc = shutil.which("protoc")
    if protoc is None:
        missing("protoc is not on PATH", "install it (Debian: protobuf-compiler)")
    names = [path.name for path in PROTOS.glob("*.proto")]
    _run(protoc, f"-I{PROTOS}", f"--{language}_out={tmp_path}", *names)
    for name, part in LANGUAGES[language].items():
        assert part in (tmp_path / name).read_text(), name


GENERATED = {
    "python": ["grpc_service_pb2_grpc.py", "model_config_pb2.pyi", "health_pb2.py"],
    "go": ["inference/grpc_service_grpc.pb.go", "inference/model_config.pb.go"],
    "javascript": ["types/inference/GRPCInferenceService.ts", "types/health.ts"],
    "cpp": ["grpc_service.grpc.pb.cc", "health.pb.h"],
}


def test_every_marked_block_is_tested() -> None:
    """The blocks that clients/README.md marks as tested are those that are tested here."""
    assert BLOCKS.keys() == GENERATED.keys()


@pytest.mark.parametrize("language", GENERATED)
def test_the_commands_of_the_readme_generate_stubs(language: str, tmp_path: Path) -> None:
    """In a folder with nothing but protos/, the commands of clients/README.md give the stubs."""
    installed(BUILT / language)
    shutil.copytree(PROTOS, tmp_path / "protos")
    tools = tmp_path / "tools"
    tools.mkdir()
    modules = ROOT / "clients" / "javascript" / "node_modules" / ".bin"
    _tool(tools / "python", str(BUILT / "python-env" / "bin" / "python"))
    _tool(tools / "npx", "env", "--", f"PATH={modules}:{os.environ['PATH']}")
    if language != "cpp":  # where protoc and plugin are of one version
        _tool(tools / "protoc", str(BUILT / "protoc"))
    path = os.pathsep.join([str(tools), str(BUILT / "go-bin"), os.environ["PATH"]])
    _run("bash", "-euc", BLOCKS[language], cwd=tmp_path, env={**os.environ, "PATH": path})
    assert [name for name in GENERATED[language] if not (tmp_path / name).exists()] == []


def test_the_options_give_every_language_its_package() -> None:
    """The proto files of a package agree in the options of every language."""
    if shutil.which("node") is None:
        missing("node, which buf is run by, is not on PATH")
    buf = installed(ROOT / ".tools" / "node" / "node_modules" / ".bin" / "buf")
    rules = (
        "GO_PACKAGE JAVA_PACKAGE JAVA_MULTIPLE_FILES CSHARP_NAMESPACE PHP_NAMESPACE RUBY_PACKAGE "
        "SWIFT_PREFIX"
    )
    names = ",".join(f'"PACKAGE_SAME_{rule}"' for rule in rules.split())
    config = f'{{"version": "v2", "lint": {{"use": [{names}, "IMPORT_USED"]}}}}'
    _run(str(buf), "lint", "--config", config, str(PROTOS))


def _run(*command: str, cwd: Path = ROOT, env: Mapping[str, str] = os.environ) -> None:
    ended = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_RUN_S, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _tool(path: Path, *command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
