"""The example of health and metadata, which wants the server to be called triton."""

from typing import Any

from example import connect, refusal

__all__ = ["connect"]


def test_health_metadata(client: Any) -> None:
    """Server and model are live and ready, and say of themselves what the example demands."""
    assert client.is_server_live(headers={"test": "1", "dummy": "2"})
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    metadata = client.get_server_metadata()
    assert metadata.name == "triton"
    families = {extension.partition("(")[0] for extension in metadata.extensions}
    assert {"model_repository", "statistics", "parameters", "binary_tensor_data"} <= families
    assert client.get_model_metadata("simple").name == "simple"
    status, message = refusal(lambda: client.get_model_metadata("wrong_model_name"))
    assert status == "NOT_FOUND"
    assert "Request for unknown model: 'wrong_model_name'" in message
    assert client.get_model_config("simple").config.name == "simple"
    as_json = client.get_model_config("simple", as_json=True)
    assert as_json["config"]["max_batch_size"] == 8
    status, message = refusal(lambda: client.get_model_config("wrong_model_name"))
    assert "Request for unknown model: 'wrong_model_name'" in message
