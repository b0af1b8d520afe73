"""Run members on many devices, connected by MQTT: a gateway sends requests to nodes.

Only `connection.py` uses the MQTT client. `dispatcher.py`, `scheduler.py`,
`registry.py` and `request.py` make the decisions, without MQTT and without threads.
"""

__all__: list[str] = []
