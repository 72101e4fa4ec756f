"""Four commands from a folder of pictures to a served classifier of them."""

import json
import os
import subprocess
import sys

import pytest
from pictures import write_pictures
from PIL import Image

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")

# The command line of training, with a network of two blocks. All other commands must do without it:
# after training, nothing is looked up by a model's name.
TRAIN = """
from delugeserve import cli, zoo
architecture = zoo.Architecture("tiny", "cifar", (4, 6), (2, 2))
zoo.MODELS = {"tiny": zoo.ModelSpec("tiny", architecture, zoo.CIFAR10)}
cli.main()
"""
COLOURS = {"daisy, white": (220, 220, 210), "rose": (190, 30, 50), "Tülpe 郁金香": (230, 180, 20)}
HANG_S = 600  # a guard against tests that hang, not a limit that a busy machine can meet


def test_a_folder_of_pictures_becomes_a_served_classifier(tmp_path):
    write_pictures(tmp_path / "flowers", COLOURS, count=30)
    Image.new("RGB", (300, 200), COLOURS["rose"]).save(tmp_path / "a rose.png")
    environment = os.environ | {"COLUMNS": "100", "PYTHONUTF8": "1"}

    def run(*command, program=("-m", "delugeserve")):
        done = subprocess.run(
            [sys.executable, *program, *command], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=HANG_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    trained = run(
        *("train", "--model", "tiny", "--data", "flowers", "--output", "runs/flowers"),
        *("--epochs", "6", "--batch-size", "9", "--learning-rate", "0.05", "--precision", "fp32"),
        "--json",
        program=("-c", TRAIN),
    )
    result = json.loads(trained)
    assert result["checkpoint"] == "runs/flowers/flowers.safetensors"
    assert (result["split"], result["num_images"]) == ("validation", 9)
    assert result["top1_error"] < 20, "the classes are plain colours"

    run("export", "--checkpoint", "runs/flowers", "--name", "flowers", "--backend", "onnxruntime")
    server = subprocess.Popen(
        [sys.executable, "-m", "delugeserve", "serve", "--grpc-port", "0", "--no-http",
         "--metrics-port", "0", "--json"],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        ready = server.stdout.readline()
        assert ready, "the server did not start"
        url = json.loads(ready)["grpc"]
        (classified,) = json.loads(run("classify", "a rose.png", "--url", url, "--json"))
        best, *others = classified["predictions"]
        assert best["label"] == "rose"
        assert {best["label"], *(other["label"] for other in others)} == set(COLOURS)
    finally:
        server.terminate()
        assert server.wait() == 0
        server.stdout.close()
