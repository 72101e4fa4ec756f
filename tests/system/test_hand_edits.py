"""Settings written into ``config.pbtxt`` by hand, after two more exports, on the real server."""

import shutil

import numpy as np
import pytest

from delugeserve.serving.supervisor import serve
from delugeserve_export import export, plan_export

grpc = pytest.importorskip("tritonclient.grpc")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

BY_HAND = """
# two instances, measured in March
instance_group [ { count: 2 kind: KIND_CPU } ]
dynamic_batching {
  max_queue_delay_microseconds: 1500
  priority_levels: 2
  default_priority_level: 2
}
parameters [ { key: "intra_op_thread_count" value { string_value: "1" } } ]
response_cache { enable: true }
"""


def test_the_server_serves_the_new_version_with_the_settings_written_by_hand(exported, tmp_path):
    repository = shutil.copytree(exported, tmp_path / "model_repository")
    path = repository / "tiny" / "config.pbtxt"
    text = path.read_text()
    for generated in ("instance_group", "dynamic_batching"):
        start = text.index(f"{generated} {{\n")
        text = text[:start] + text[text.index("\n}\n", start) + 3 :]
    path.write_text(text + BY_HAND)
    for largest in (6, 4):
        plan = plan_export(
            checkpoint=exported.parent / "tiny.safetensors",
            repository=repository,
            backend="onnxruntime",
            sum_form="mul",
            max_batch_size=largest,
        )
        done = export(plan)
        assert done.published
        assert done.config.replaced == ()
    text = path.read_text()
    assert [line for line in BY_HAND.splitlines() if line not in text] == []
    with serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True) as server:
        client = grpc.InferenceServerClient(server.grpc_url)
        config = client.get_model_config("tiny").config
        assert config.max_batch_size == 4
        assert list(config.version_policy.specific.versions) == [3]
        assert [group.count for group in config.instance_group] == [2]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1500
        assert config.dynamic_batching.priority_levels == 2
        assert config.parameters["intra_op_thread_count"].string_value == "1"
        assert config.response_cache.enable
        image = grpc.InferInput("image", [4, 32, 32, 3], "UINT8")
        image.set_data_from_numpy(np.zeros((4, 32, 32, 3), np.uint8))
        found = client.infer("tiny", [image], priority=1).as_numpy("probabilities")
        assert found.shape == (4, 10)
        client.close()
